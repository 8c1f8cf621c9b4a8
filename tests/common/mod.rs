//! What the tests of the binary share: a folder of their own, and ways to run the program.

#![expect(dead_code, reason = "each test file uses a part")]

pub(crate) mod generated;
pub(crate) mod records;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed with the value.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ept-sweep-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, as it was built for this test.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ept-sweep"))
}

pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    program().args(arguments).output().unwrap()
}

/// Runs a sweep file into `out` and expects it to end well.
pub(crate) fn sweep(file: &Path, out: &Path) -> Output {
    let output = program().arg(file).arg("--out").arg(out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn experiment(name: &str) -> PathBuf {
    repository().join("experiments").join(name)
}

/// The rows of `results.csv`, each by column name.
pub(crate) fn results(out: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = fs::read_to_string(out.join("results.csv")).unwrap();
    let mut lines = text.lines();
    let header: Vec<String> = lines.next().unwrap().split(',').map(str::to_owned).collect();
    lines.map(|line| header.iter().cloned().zip(split_csv(line)).collect()).collect()
}

fn split_csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(character),
        }
    }
    fields
}

/// The lines of `records.jsonl`.
pub(crate) fn records(out: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(out.join("records.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The trials among them.
pub(crate) fn trials(out: &Path) -> Vec<serde_json::Value> {
    records(out).into_iter().filter(|record| record["kind"] == "trial").collect()
}
