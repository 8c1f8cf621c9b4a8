//! The GPU's kernels on any machine: their sources are compiled by a C++ compiler and run on an emulator of blocks,
//! warps and tensor cores (tests/kernels/emulate.h), against references in double precision.
//!
//! CUDA's headers define the half-precision numbers: `EPT_SWEEP_CUDA_HEADERS` names their folder, or `CUDA_HOME` that of
//! the toolkit (scripts/cuda-toolkit.sh makes one). Without them there is nothing to test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Products aren't contracted to fused ones, so that roundings are those of the source; the emulator's fibers jump from
/// stack to stack, which a hardened C library takes for an attack.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O1",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
];

fn headers() -> Option<PathBuf> {
    let named = env::var_os("EPT_SWEEP_CUDA_HEADERS").map(PathBuf::from);
    let folder = named.or_else(|| env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("include")))?;
    folder.join("cuda_bf16.h").exists().then_some(folder)
}

fn compiler() -> Option<String> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    Command::new(&compiler).arg("--version").output().is_ok_and(|output| output.status.success()).then_some(compiler)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Compiles and runs one test; what went wrong, if anything did.
fn failure(source: &Path, compiler: &str, headers: &Path) -> Option<String> {
    let name = source.file_stem().unwrap().to_string_lossy().into_owned();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{name}"));
    let mut compile = Command::new(compiler);
    compile.args(FLAGS).arg("-isystem").arg(headers).arg("-I").arg(source.parent().unwrap());
    let compiled = compile.arg(source).arg("-o").arg(&program).output().unwrap();
    if !compiled.status.success() {
        return Some(format!("{name} doesn't compile:\n{}", said(&compiled)));
    }
    let run = Command::new(&program).output().unwrap();
    println!("{name}\n{}", said(&run));
    (!run.status.success()).then(|| format!("{name} ended with {}:\n{}", run.status, said(&run)))
}

#[test]
fn kernels_give_what_references_in_double_precision_give() {
    let (Some(headers), Some(compiler)) = (headers(), compiler()) else {
        println!("skipped: needs a C++ compiler, and CUDA's headers in EPT_SWEEP_CUDA_HEADERS or CUDA_HOME/include");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let sources: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ending| ending == "cpp")).collect();
    assert!(!sources.is_empty());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(sources.len()) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = failure(source, &compiler, &headers);
                    failures.lock().unwrap().extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
