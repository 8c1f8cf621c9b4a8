//! Records the git revision that the program is built from, which every run stores, and compiles the GPU's kernels.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::SystemTime;
use std::{env, fs};

const KERNELS: &str = "src/engine/gpu/kernels";

/// Compute capabilities that the kernels are compiled for: A100, other Ampere, Ada and Hopper. Later GPUs compile the
/// PTX of the last one when the program starts.
const CAPABILITIES: [&str; 4] = ["80", "86", "89", "90"];

fn main() {
    for path in [".git/HEAD", ".git/index", "src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=EPT_SWEEP_CUDA_CAPABILITIES");
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).filter(|revision| !revision.is_empty());
    // untracked files are left out: a report beside the sources doesn't change the program
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    let suffix = if dirty { "-dirty" } else { "" };
    println!("cargo::rustc-env=EPT_SWEEP_REVISION={}", revision.map_or(String::new(), |r| r + suffix));
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels();
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// Compiles each `.cu` file to one image for all capabilities, and writes the list of images that the driver embeds.
fn compile_kernels() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let capabilities = env::var("EPT_SWEEP_CUDA_CAPABILITIES").unwrap_or_else(|_| CAPABILITIES.join(","));
    let capabilities: Vec<&str> = capabilities.split(',').collect();
    let mut files: Vec<PathBuf> =
        fs::read_dir(KERNELS).expect("the kernels").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let (sources, headers): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| path.extension().is_some_and(|ending| ending == "cu"));
    let newest_header = headers.iter().filter_map(|path| changed(path)).max();

    let mut list = String::from("pub(super) static IMAGES: &[(&str, &[u8])] = &[\n");
    let mut running: Vec<(PathBuf, Child)> = Vec::new();
    for source in &sources {
        let name = source.file_stem().expect("a name").to_string_lossy().into_owned();
        let image = out.join(format!("{name}-{}.fatbin", capabilities.join("-")));
        list.push_str(&format!("    (\"{name}\", include_bytes!({:?})),\n", image.display().to_string()));
        let newest_source = changed(source).max(newest_header);
        // the script runs again for any change in src/, and nvcc takes minutes
        if changed(&image).is_some_and(|made| Some(made) > newest_source) {
            continue;
        }
        if running.len() >= jobs() {
            finish(running.remove(0));
        }
        running.push((source.clone(), nvcc(source, &image, &capabilities)));
    }
    running.into_iter().for_each(finish);
    list.push_str("];\n");
    fs::write(out.join("kernel_images.rs"), list).expect("OUT_DIR can be written to");
}

fn jobs() -> usize {
    env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1)
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn nvcc(source: &Path, image: &Path, capabilities: &[&str]) -> Child {
    let home = ["CUDA_HOME", "CUDA_PATH"].iter().find_map(env::var_os);
    let program = home.map_or(PathBuf::from("nvcc"), |home| Path::new(&home).join("bin/nvcc"));
    let mut command = Command::new(&program);
    command.args(["-std=c++17", "-O3", "-fatbin", "-o"]).arg(image).arg(source);
    for capability in capabilities {
        command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
    }
    if let Some(last) = capabilities.last() {
        command.arg(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    }
    command.spawn().unwrap_or_else(|error| panic!("can't run {}: {error}", program.display()))
}

fn finish((source, mut child): (PathBuf, Child)) {
    let status = child.wait().expect("nvcc can be waited for");
    assert!(status.success(), "nvcc failed on {}", source.display());
}
