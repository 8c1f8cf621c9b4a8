//! Prints the table of estimators' errors, `docs/measurement/errors.md`: what each way from readings to an energy says of
//! simulated work whose energy is known.
//!
//!     cargo run --release --example estimator_error > docs/measurement/errors.md

// shared with tests/oracle.rs, which uses all of them
#[allow(dead_code)]
#[path = "../tests/oracle/sensors.rs"]
mod sensors;
#[allow(dead_code)]
#[path = "../tests/oracle/table.rs"]
mod table;

fn main() {
    print!("{}", table::page());
}
