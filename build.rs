//! Records the git revision that the program is built from: every run stores it.

use std::process::Command;

fn main() {
    for path in [".git/HEAD", ".git/index", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).filter(|revision| !revision.is_empty());
    // untracked files are left out: a report beside the sources doesn't change the program
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    let suffix = if dirty { "-dirty" } else { "" };
    println!("cargo::rustc-env=EPT_SWEEP_REVISION={}", revision.map_or(String::new(), |r| r + suffix));
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
