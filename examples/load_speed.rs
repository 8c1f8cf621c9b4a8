//! How fast a model gets from its files onto the device, against the disk's own speed, in one run.
//!
//!     cargo run --release --example load_speed -- FOLDER [--device cpu|cuda] [--dtype bf16] [--repeats 3]
//!         [--kernels plain] [--dummy]
//!
//! Cold: the files are dropped from the page cache first (`posix_fadvise`; what a file system ignores reads as warm,
//! and the table shows it). Disk: all bytes of the files, read in order by one thread and by eight, into memory that is
//! thrown away. With `--dummy` the folder needs only a `config.json`, and loading makes seeded random weights.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load};
use ept_sweep::record::{DummyDistribution, DummyWeights, KernelsChoice};

#[derive(Parser)]
struct Arguments {
    /// Folder of the model.
    folder: PathBuf,
    /// `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Data type to run in.
    #[arg(long)]
    dtype: Option<String>,
    /// `auto` for the fastest operations, `plain` for candle's.
    #[arg(long, default_value = "auto")]
    kernels: String,
    /// Dummy weights in place of those of the folder.
    #[arg(long)]
    dummy: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
}

const CHUNK: usize = 8 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let device = if arguments.device == "cuda" { DeviceChoice::Cuda(0) } else { DeviceChoice::Cpu };
    println!("{:<34} {:>8} {:>8}", "", "s", "GB/s");
    match arguments.dummy {
        true => dummies(&arguments, device),
        false => stored(&arguments, device),
    }
}

/// Loads the model, and gives the bytes of its weights that a step reads.
fn loaded(arguments: &Arguments, device: DeviceChoice) -> Result<u64, Box<dyn Error>> {
    let numbers = DummyWeights { seed: 42, distribution: DummyDistribution::Gaussian };
    let options = LoadOptions {
        dtype: arguments.dtype.as_deref(),
        dummy: arguments.dummy.then_some(numbers),
        kernels: KernelsChoice::from_code(&arguments.kernels).ok_or("--kernels takes `auto` or `plain`")?,
        ..LoadOptions::default()
    };
    let engine = load(&arguments.folder, &options, device)?;
    Ok(engine.info().weight_bytes.unwrap_or(0))
}

fn dummies(arguments: &Arguments, device: DeviceChoice) -> Result<(), Box<dyn Error>> {
    // the first load of a process also opens the device
    for number in 1..=arguments.repeats {
        let start = Instant::now();
        let bytes = loaded(arguments, device)?;
        print_row(&format!("dummy weights, load {number}"), bytes, start);
    }
    Ok(())
}

fn stored(arguments: &Arguments, device: DeviceChoice) -> Result<(), Box<dyn Error>> {
    let files = weight_files(&arguments.folder)?;
    let bytes: u64 = files.iter().map(|file| Ok(file.metadata()?.len())).sum::<std::io::Result<u64>>()?;
    println!("{} files, {:.2} GB, onto {}", files.len(), bytes as f64 / 1e9, arguments.device);
    for _ in 0..arguments.repeats {
        drop_from_cache(&files)?;
        report("disk, cold, one thread", bytes, || read_in_order(&arguments.folder))?;
        drop_from_cache(&files)?;
        report("disk, cold, eight threads", bytes, || read_in_parallel(&files, 8))?;
        report("page cache, eight threads", bytes, || read_in_parallel(&files, 8))?;
        let loading = || loaded(arguments, device).map(drop);
        // hashing every file for the record is part of the first load of a process, and reads it once more
        report("load, warm (the first one hashes)", bytes, loading)?;
        drop_from_cache(&files)?;
        report("load, cold", bytes, loading)?;
        report("load, warm", bytes, loading)?;
    }
    Ok(())
}

fn report(what: &str, bytes: u64, work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    work()?;
    print_row(what, bytes, start);
    Ok(())
}

fn print_row(what: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:<34} {seconds:>8.2} {:>8.2}", bytes as f64 / 1e9 / seconds);
}

fn weight_paths(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let paths = entries.collect::<std::io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "safetensors")).collect())
}

fn weight_files(folder: &Path) -> std::io::Result<Vec<File>> {
    weight_paths(folder)?.iter().map(File::open).collect()
}

fn drop_from_cache(files: &[File]) -> std::io::Result<()> {
    for file in files {
        file.sync_all()?;
        // SAFETY: a plain system call on an open file.
        let code = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if code != 0 {
            return Err(std::io::Error::from_raw_os_error(code));
        }
    }
    Ok(())
}

fn read_in_order(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut buffer = vec![0; CHUNK];
    for mut file in weight_files(folder)? {
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

fn read_in_parallel(files: &[File], threads: u64) -> Result<(), Box<dyn Error>> {
    for file in files {
        let share = file.metadata()?.len().div_ceil(threads);
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || read_share(file, thread * share, share))).collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().map_err(|_| "a reader panicked")?.map_err(Into::into))
        })
        .map_err(|error: Box<dyn Error>| error)?;
    }
    Ok(())
}

fn read_share(file: &File, begin: u64, length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = begin;
    while at < begin + length {
        let want = CHUNK.min((begin + length - at) as usize);
        match file.read_at(&mut buffer[..want], at)? {
            0 => break,
            read => at += read as u64,
        }
    }
    Ok(())
}
