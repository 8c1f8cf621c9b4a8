//! The machine and the program: the provenance that every run stores.

use std::fs;

use serde::{Deserialize, Serialize};

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A machine, as it is stored with a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Host {
    /// From `/proc/sys/kernel/hostname`; `None` if that can't be read.
    pub hostname: Option<String>,
    /// Operating system and kernel.
    pub os: Option<String>,
    /// Model name of the first processor in `/proc/cpuinfo`; `None` if none is named.
    pub cpu: Option<String>,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// Git revision that the program was built from, if it was built in a checkout.
pub fn git_revision() -> Option<String> {
    let revision = env!("EPT_SWEEP_REVISION");
    (!revision.is_empty()).then(|| revision.to_owned())
}

/// This machine, as far as the system describes it.
pub fn describe() -> Host {
    Host {
        hostname: line("/proc/sys/kernel/hostname"),
        os: operating_system(),
        cpu: cpu_model(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes("MemTotal:"),
    }
}

/// Memory that can be used without swapping, if the system reports it.
pub(crate) fn available_memory() -> Option<u64> {
    let machine = memory_bytes("MemAvailable:");
    machine.into_iter().chain(left_in_container()).min()
}

/// Memory that a container's limit (cgroup 2) leaves.
fn left_in_container() -> Option<u64> {
    let number = |file: &str| line(&format!("/sys/fs/cgroup/{file}"))?.parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn operating_system() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok();
    let pretty = release.as_deref().and_then(|text| {
        let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(value.trim_matches('"').to_owned())
    });
    match (pretty, line("/proc/sys/kernel/osrelease")) {
        (Some(name), Some(kernel)) => Some(format!("{name}, kernel {kernel}")),
        (Some(name), None) => Some(name),
        (None, Some(kernel)) => Some(format!("{} {kernel}", std::env::consts::OS)),
        (None, None) => Some(std::env::consts::OS.to_owned()),
    }
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = info.lines().find(|line| line.starts_with("model name"))?.split_once(':')?.1;
    Some(value.trim().to_owned())
}

fn memory_bytes(key: &str) -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = info.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}
