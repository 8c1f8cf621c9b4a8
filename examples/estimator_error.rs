//! Prints the table of estimators' errors, `docs/measurement/errors.md`: what each way from readings to an energy says of
//! simulated work whose energy is known.
//!
//!     cargo run --release --example estimator_error > docs/measurement/errors.md

#[allow(dead_code, reason = "shared with tests/oracle.rs, which uses all of it")]
#[path = "../tests/oracle/courses.rs"]
mod courses;
#[allow(dead_code, reason = "shared with tests/oracle.rs, which uses all of it")]
#[path = "../tests/oracle/rhythm.rs"]
mod rhythm;
#[allow(dead_code, reason = "shared with tests/oracle.rs, which uses all of it")]
#[path = "../tests/oracle/sensors.rs"]
mod sensors;
#[allow(dead_code, reason = "shared with tests/oracle.rs, which uses all of it")]
#[path = "../tests/oracle/table.rs"]
mod table;

fn main() {
    print!("{}", table::page());
}
