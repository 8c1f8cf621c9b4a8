//! `ept-sweep meter -- COMMAND`, through the binary: nothing of the command is touched, and what it took is known.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Folder, experiment, stderr, stdout, sweep};
use serde_json::Value;

/// The program with the signals' default actions: a shell that starts the tests in the background has it ignore SIGINT and
/// SIGQUIT, and what is ignored at the start stays ignored.
fn program() -> Command {
    let mut program = common::program();
    let restore = || {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            // SAFETY: `signal` may be called between fork and exec, and the default action is no handler of this process
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure only calls `signal`
    unsafe { program.pre_exec(restore) };
    program
}

/// The program that measures a shell script, with the modelled meter and without an idle baseline.
fn metered(options: &[&str], script: &str) -> Command {
    let mut program = program();
    program.args(["meter", "--meter", "modelled", "--idle", "0"]).args(options).args(["--", "sh", "-c", script]);
    program
}

/// Measures a script, and reads what was written.
fn measured(folder: &Folder, options: &[&str], script: &str) -> (Output, Value) {
    let out = folder.path("energy.json");
    let output = metered(&[&["--out", out.to_str().unwrap()], options].concat(), script).output().unwrap();
    (output, json(&out))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} isn't a number"))
}

#[track_caller]
fn near(found: &Value, expected: f64, share: f64) {
    let found = number(found);
    assert!((found / expected - 1.0).abs() <= share, "{found} instead of {expected}");
}

/// A shell loop of some hundred milliseconds.
const BUSY: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";

mod untouched {
    use super::*;

    #[test]
    fn bytes_from_standard_input_come_out_as_they_are_and_nothing_is_added() {
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let mut child =
            metered(&[], "cat").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = thread::spawn(move || stdin.write_all(&sent).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.stdout == bytes, "{} bytes came out", output.stdout.len());
        assert!(stderr(&output).contains("(modelled) in"), "the summary is on standard error: {}", stderr(&output));
    }

    #[test]
    fn with_quiet_standard_error_is_the_commands_alone() {
        let output = metered(&["--quiet"], "echo mine >&2; echo out").output().unwrap();
        assert_eq!((stdout(&output), stderr(&output)), ("out\n".into(), "mine\n".into()));
    }

    #[test]
    fn the_exit_code_is_the_commands_own_and_is_written() {
        let folder = Folder::new();
        for code in [0, 1, 2, 42, 130, 255] {
            let (output, json) = measured(&folder, &[], &format!("exit {code}"));
            assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
            assert_eq!((&json["exit_code"], &json["signal"]), (&code.into(), &Value::Null));
        }
    }

    #[test]
    fn a_reader_of_standard_error_who_has_left_does_not_change_the_exit_code() {
        let mut child = metered(&[], "sleep 0.3; exit 7").stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn a_command_that_cannot_be_started_is_127_or_126_with_a_hint_and_no_waiting() {
        let folder = Folder::new();
        let script = folder.write("script.sh", "echo hello\n");
        let start = |name: &str| program().args(["meter", "--meter", "modelled", "--", name]).output().unwrap();
        for (name, code, words) in [
            ("no-such-command-here", 127, "there is no command `no-such-command-here`"),
            ("./nowhere/script.sh", 127, "there is no command `./nowhere/script.sh`"),
            (script.to_str().unwrap(), 126, "permission denied"),
            (folder.0.to_str().unwrap(), 126, "permission denied"),
        ] {
            let output = start(name);
            assert_eq!(output.status.code(), Some(code), "{name}: {}", stderr(&output));
            assert!(stderr(&output).contains(words) && stderr(&output).contains("hint:"), "{}", stderr(&output));
            assert_eq!(stdout(&output), "");
        }
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&script, "\x7fELF but not really").unwrap();
        let output = start(script.to_str().unwrap());
        assert_eq!(output.status.code(), Some(126), "no program, though it may be executed: {}", stderr(&output));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_out_before_the_command_runs() {
        let folder = Folder::new();
        let trace = folder.path("ran");
        let script = format!("touch {}", trace.display());
        let output = metered(&["--out", "/nowhere/at/all.json"], &script).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(!trace.exists());
    }

    #[test]
    fn options_of_a_measurement_need_a_command() {
        for options in [&["--out", "a.json"][..], &["--idle", "1"], &["--marks", "m"], &["--meter", "nvml"]] {
            let output = program().arg("meter").args(options).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{options:?}");
        }
        let output = metered(&["--format", "json"], "true").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "standard output belongs to the command");
    }
}

mod signals {
    use super::*;

    /// Starts a script that prints a line when it is ready, and waits for that.
    fn ready(options: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = metered(options, script).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (child, output)
    }

    fn send(pid: u32, signal: i32) {
        // SAFETY: a call with plain values
        assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
    }

    /// Counts a signal, and ends half a second after the first one.
    fn counting(name: &str) -> String {
        format!(
            "n=0; trap 'n=$((n+1))' {name}; echo ready; \
             i=0; while [ $i -lt 200 ] && [ $n -eq 0 ]; do sleep 0.05; i=$((i+1)); done; \
             sleep 0.3; sleep 0.2; echo $n times; exit 9"
        )
    }

    #[test]
    fn a_signal_to_this_process_alone_reaches_the_command_once() {
        for (name, signal) in [
            ("INT", libc::SIGINT),
            ("TERM", libc::SIGTERM),
            ("HUP", libc::SIGHUP),
            ("QUIT", libc::SIGQUIT),
            ("USR1", libc::SIGUSR1),
            ("USR2", libc::SIGUSR2),
            ("WINCH", libc::SIGWINCH),
        ] {
            let (mut child, mut output) = ready(&[], &counting(name));
            send(child.id(), signal);
            let mut rest = String::new();
            output.read_to_string(&mut rest).unwrap();
            assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("1 times\n", Some(9)), "{name}");
        }
    }

    #[test]
    fn a_command_that_a_signal_ends_ends_this_program_by_it_and_its_energy_is_kept() {
        let folder = Folder::new();
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGABRT, libc::SIGSEGV] {
            let (output, json) = measured(&folder, &[], &format!("sleep 1.1; kill -{signal} $$"));
            assert_eq!((output.status.code(), output.status.signal()), (None, Some(signal)), "{}", stderr(&output));
            assert_eq!((&json["signal"], &json["exit_code"]), (&signal.into(), &Value::Null));
            assert!(number(&json["energy_j"]) >= 5.0 * 1.1, "{json}");
            assert!(stderr(&output).contains(&format!("ended by signal {signal}")), "{}", stderr(&output));
        }
    }

    #[test]
    fn a_signal_during_the_idle_baseline_ends_the_program_and_the_command_is_never_started() {
        let folder = Folder::new();
        let trace = folder.path("ran");
        let mut child = program()
            .args(["meter", "--meter", "modelled", "--idle", "60", "--", "touch"])
            .arg(&trace)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1500));
        let start = Instant::now();
        send(child.id(), libc::SIGTERM);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(start.elapsed() < Duration::from_secs(30) && !trace.exists());
    }

    #[test]
    fn a_signal_that_was_ignored_from_the_start_stays_ignored_as_under_nohup() {
        let inner = "trap 'echo caught' HUP; kill -HUP $$; kill -HUP $PPID; sleep 0.3; echo done";
        let mut command = Command::new("sh");
        command.args(["-c", r#"trap "" HUP; exec "$0" "$@""#]).arg(program().get_program());
        command.args(metered(&[], inner).get_args());
        let output = command.output().unwrap();
        assert_eq!(stdout(&output), "done\n", "{}", stderr(&output));
        assert!(output.status.success());
    }

    /// A terminal of its own, with the program in its foreground.
    struct Terminal {
        child: Child,
        keyboard: File,
        screen: thread::JoinHandle<String>,
    }

    impl Terminal {
        fn new(mut command: Command) -> Self {
            let (mut master, mut slave) = (-1, -1);
            let null = std::ptr::null_mut();
            // SAFETY: the call fills in two descriptors, which are then owned here
            let (master, slave) = unsafe {
                assert_eq!(libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast()), 0);
                (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
            };
            let end = || Stdio::from(slave.try_clone().unwrap());
            command.stdin(end()).stdout(end()).stderr(end());
            // SAFETY: both calls are allowed between fork and exec
            unsafe {
                command.pre_exec(|| {
                    libc::setsid();
                    libc::ioctl(0, libc::TIOCSCTTY, 0);
                    Ok(())
                });
            }
            let child = command.spawn().unwrap();
            drop((command, slave));
            let mut from = File::from(master.try_clone().unwrap());
            let screen = thread::spawn(move || {
                let (mut text, mut bytes) = (String::new(), [0; 1024]);
                // the end of a terminal is an error
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    text.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
                text
            });
            Self { child, keyboard: File::from(master), screen }
        }

        fn press(&mut self, key: &[u8]) {
            self.keyboard.write_all(key).unwrap();
        }

        fn end(mut self) -> (Option<i32>, String) {
            let status = self.child.wait().unwrap();
            (status.code(), self.screen.join().unwrap())
        }
    }

    #[test]
    fn ctrl_c_on_a_terminal_reaches_the_command_once() {
        let folder = Folder::new();
        let flag = folder.path("ready");
        let script = format!("touch {}; {}", flag.display(), counting("INT"));
        let mut terminal = Terminal::new(metered(&[], &script));
        wait_for(&flag);
        thread::sleep(Duration::from_millis(200));
        terminal.press(b"\x03");
        let (code, screen) = terminal.end();
        assert!(screen.contains("1 times"), "{screen}");
        assert_eq!(code, Some(9), "{screen}");
    }

    #[test]
    fn ctrl_z_stops_the_job_and_it_continues_in_the_foreground() {
        let folder = Folder::new();
        let (flag, stopped, out) = (folder.path("ready"), folder.path("stopped"), folder.path("energy.json"));
        let inner = format!("touch {}; sleep 1; echo finished", flag.display());
        let job = metered(&["--out", out.to_str().unwrap()], &inner);
        let words: Vec<&std::ffi::OsStr> = std::iter::once(job.get_program()).chain(job.get_args()).collect();
        // a shell with job control, which continues the job once it has stopped
        let mut shell = Command::new("bash");
        let outer = format!(r#"set -m; "$@"; echo was $?; touch {}; sleep 0.5; fg"#, stopped.display());
        shell.args(["-c", &outer, "bash"]).args(words);
        let mut terminal = Terminal::new(shell);
        wait_for(&flag);
        thread::sleep(Duration::from_millis(200));
        terminal.press(b"\x1a");
        wait_for(&stopped);
        let (_, screen) = terminal.end();
        assert!(screen.contains("was 148") && screen.contains("finished"), "{screen}");
        assert_eq!(json(&out)["exit_code"], 0, "{screen}");
    }

    fn wait_for(file: &Path) {
        let start = Instant::now();
        while !file.exists() {
            assert!(start.elapsed() < Duration::from_secs(60), "{} never came", file.display());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

mod energy {
    use super::*;

    /// The processor time that a shell's `times` prints: its own, and that of its children.
    fn times(text: &str) -> f64 {
        let words = text.split_whitespace().filter(|word| word.ends_with('s') && word.contains('m'));
        let seconds = |word: &str| {
            let (minutes, seconds) = word.trim_end_matches('s').split_once('m').unwrap();
            minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
        };
        words.map(seconds).sum()
    }

    /// 5 W throughout and 8 W for each busy processor, which are the defaults.
    fn check(script: &str) -> f64 {
        let folder = Folder::new();
        let (output, json) = measured(&folder, &[], &format!("{script}; times"));
        let busy = times(&stdout(&output));
        let expected = 5.0 * number(&json["seconds"]) + 8.0 * busy;
        // processor time is shown in steps of 10 ms, for each process
        let tolerance = 0.03 * expected + 8.0 * 0.05;
        let found = number(&json["energy_j"]);
        assert!((found - expected).abs() <= tolerance, "{found} J instead of {expected} J ({busy} s busy)");
        assert_eq!(json["energy_method"], "modelled");
        assert_eq!(json["validity"]["warnings"][0], "modelled");
        busy
    }

    #[test]
    fn an_idle_command_costs_the_idle_share_alone() {
        assert!(check("sleep 1.5") < 0.2);
    }

    #[test]
    fn a_busy_command_is_charged_its_own_time_and_that_of_its_descendants() {
        assert!(check(&format!("{BUSY}; {BUSY}")) > 0.2);
        assert!(check(&format!("( {BUSY} ); sh -c '{BUSY}' & wait; sleep 0.5")) > 0.2);
    }

    #[test]
    fn net_energy_is_gross_less_the_idle_power_before() {
        let folder = Folder::new();
        let out = folder.path("e.json");
        let output = program()
            .args(["meter", "--meter", "modelled", "--idle", "0.5", "--out"])
            .arg(&out)
            .args(["--", "sh", "-c", &format!("{BUSY}; sleep 1")])
            .output()
            .unwrap();
        let json = json(&out);
        near(&json["idle"]["power_w"], 5.0, 0.01);
        let net = number(&json["energy_j"]) - number(&json["idle"]["power_w"]) * number(&json["seconds"]);
        near(&json["net_energy_j"], net, 1e-9);
        assert!(net > 0.5, "{net} J above idle");
        assert!(stderr(&output).contains("above the idle power of 5"), "{}", stderr(&output));
    }

    #[test]
    fn a_command_that_is_too_short_is_marked_and_the_file_has_everything_that_a_window_has() {
        let folder = Folder::new();
        let samples = folder.path("s.parquet");
        let (_, json) = measured(&folder, &["--samples", samples.to_str().unwrap()], "true");
        assert_eq!(json["validity"]["invalid_reasons"][0], "window_too_short");
        for key in [
            "command",
            "exit_code",
            "signal",
            "started_at",
            "seconds",
            "energy_j",
            "energy_method",
            "net_energy_j",
            "device",
            "idle",
            "validity",
            "error",
            "energy",
            "conditions",
            "stages",
            "by_stage",
            "unresolved_stages",
            "outside_stages",
            "ignored_marks",
            "meter",
            "host",
            "version",
            "git_revision",
        ] {
            assert!(json.get(key).is_some(), "no `{key}`");
        }
        assert_eq!(json["command"], serde_json::json!(["sh", "-c", "true"]));
        assert_eq!(&fs::read(samples).unwrap()[..4], b"PAR1");
    }
}

mod stages {
    use super::*;

    const STAGES: &str = "echo sleep > M; sleep 1.2; echo work > M; BUSY; BUSY; BUSY; sleep 0.5; \
        echo sleep > M; sleep 1.2; echo > M; sleep 1.1";

    fn script(target: &str) -> String {
        STAGES.replace("BUSY", BUSY).replace("> M", target)
    }

    fn check(json: &Value) {
        let stages = json["stages"].as_array().unwrap();
        let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["sleep", "work", "sleep"]);
        let mut end = 0.0;
        for stage in stages {
            let (start, seconds) = (number(&stage["start_s"]), number(&stage["seconds"]));
            assert!(start >= end - 1e-9, "{stage}");
            end = start + seconds;
            assert_eq!(stage["validity"]["invalid_reasons"], serde_json::json!([]), "{stage}");
        }
        let power = |stage: &Value| number(&stage["energy_j"]) / number(&stage["seconds"]);
        assert!(power(&stages[0]) < 7.0 && power(&stages[1]) > 7.0 && power(&stages[2]) < 7.0, "{stages:?}");
        let rows = json["by_stage"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["times"], &rows[1]["times"]), (2, &2.into(), &1.into()));
        let parts: f64 = rows.iter().map(|row| number(&row["energy_j"])).sum();
        let outside = number(&json["outside_stages"]["energy_j"]);
        // a mark in a file is seen up to 20 ms late
        assert!(outside > 5.0 * 1.05, "{outside} J in the second after the last stage");
        near(&json["energy_j"], parts + outside, 1e-9);
    }

    #[test]
    fn stages_that_are_written_to_the_pipe_of_the_environment_are_measured_apart() {
        let (output, json) = measured(&Folder::new(), &[], &script(r#"> "$EPT_SWEEP_MARKS""#));
        check(&json);
        assert!(stderr(&output).contains("stage sleep (2 times)"), "{}", stderr(&output));
    }

    #[test]
    fn stages_may_be_appended_to_a_file_or_written_to_a_named_pipe() {
        let folder = Folder::new();
        let file = folder.write("marks.txt", "of an earlier run\n");
        let (_, json) = measured(&folder, &["--marks", file.to_str().unwrap()], &script(">> $EPT_SWEEP_MARKS"));
        check(&json);
        assert!(fs::read_to_string(&file).unwrap().starts_with("of an earlier run\nsleep\n"), "the file is kept");
        let pipe = folder.path("marks.pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (_, json) =
            measured(&folder, &["--marks", pipe.to_str().unwrap()], &script(&format!("> {}", pipe.display())));
        check(&json);
        assert!(pipe.exists(), "it isn't ours to remove");
    }

    #[test]
    fn a_time_stamp_in_a_line_says_when_the_stage_began() {
        let script = "t=$(date +%s.%N); sleep 1.5; echo \"$t early\" > $EPT_SWEEP_MARKS; sleep 1; \
            echo \"9999999999 future\" > $EPT_SWEEP_MARKS; sleep 0.2";
        let (_, json) = measured(&Folder::new(), &[], script);
        let stages = json["stages"].as_array().unwrap();
        assert!(number(&stages[0]["start_s"]) < 0.5 && number(&stages[0]["seconds"]) > 2.4, "{stages:?}");
        assert_eq!(stages[1]["name"], "future");
        assert!((0.1..2.0).contains(&number(&stages[1]["seconds"])), "a stamp in the future is now: {stages:?}");
    }

    #[test]
    fn nonsense_among_the_marks_neither_ends_the_measurement_nor_reaches_the_terminal() {
        let script = r#"exec 3> $EPT_SWEEP_MARKS; head -c 100000 /dev/zero | tr '\0' x >&3; echo >&3
            printf '\033[31mred\007\377\n' >&3; head -c 3000 /dev/urandom >&3; echo >&3
            i=0; while [ $i -lt 12000 ]; do echo s$i; i=$((i+1)); done >&3; printf unfinished >&3; sleep 1"#;
        let (output, json) = measured(&Folder::new(), &[], script);
        assert!(output.status.success());
        assert!(number(&json["ignored_marks"]) >= 2000.0, "{}", json["ignored_marks"]);
        assert!(json["stages"].as_array().unwrap().len() <= 10_000);
        assert!(number(&json["energy_j"]) > 5.0);
        let printed = stderr(&output);
        assert!(printed.contains("red"), "{printed}");
        assert!(printed.chars().all(|c| c == '\n' || !c.is_control()), "{printed:?}");
    }

    #[test]
    fn the_pipe_is_gone_afterwards_and_only_its_owner_can_open_it() {
        let script = "echo $EPT_SWEEP_MARKS; stat -c %a $(dirname $EPT_SWEEP_MARKS)";
        let (output, _) = measured(&Folder::new(), &[], script);
        let text = stdout(&output);
        let (path, mode) = text.trim().split_once('\n').unwrap();
        assert_eq!(mode, "700");
        assert!(!Path::new(path).parent().unwrap().exists(), "{path}");
    }
}

mod gpu {
    use super::*;

    /// The program in a folder in which the stand-in of `tests/meter_nvml` is found as the driver's library.
    fn with_gpu(folder: &Folder) -> (Command, PathBuf) {
        let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition=2024", "--crate-type=cdylib", "-Copt-level=1"])
            .args(["-Clink-arg=-Wl,-soname,libnvidia-ml.so.1", "-o"])
            .arg(folder.path("libnvidia-ml.so.1"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meter_nvml/fake.rs"))
            .status();
        assert!(status.is_ok_and(|status| status.success()), "the stand-in doesn't compile");
        let power = folder.write("power", "1 100\n");
        let mut program = program();
        program.env("LD_LIBRARY_PATH", &folder.0).env("FAKE_NVML_POWER", &power).env("CUDA_VISIBLE_DEVICES", "12");
        (program, power)
    }

    #[test]
    fn the_energy_of_a_command_and_of_its_stages_is_that_of_the_script_that_the_gpu_follows() {
        let folder = Folder::new();
        let (mut program, power) = with_gpu(&folder);
        let out = folder.path("e.json");
        // each step of power has the time stamp of its mark
        let script = r#"step() { t=$(date +%s.%N); echo "$t $1" >> "$FAKE_NVML_POWER"; echo "$t $2" > "$EPT_SWEEP_MARKS"; }
            step 400 heat; sleep 6; step 250 rest; sleep 6; step 400 heat; sleep 6; step 150 ''; sleep 2"#;
        let output = program
            .args(["meter", "--idle", "3", "--out"])
            .arg(&out)
            .args(["--", "sh", "-c", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let json = json(&out);
        let text = fs::read_to_string(power).unwrap();
        let steps: Vec<(f64, f64)> = text
            .lines()
            .skip(1)
            .map(|line| line.split_once(' ').unwrap())
            .map(|(time, watts)| (time.parse().unwrap(), watts.parse().unwrap()))
            .collect();
        let true_j = |index: usize| steps[index].1 * (steps[index + 1].0 - steps[index].0);
        assert_eq!((&json["meter"]["name"], &json["energy_method"]), (&"nvml".into(), &"counter".into()));
        assert_eq!(json["meter"]["domains"][0]["name"], "gpu12", "the visible one");
        assert_eq!(json["validity"]["invalid_reasons"], serde_json::json!([]), "{}", stderr(&output));
        let stages = json["stages"].as_array().unwrap();
        for (index, stage) in stages.iter().enumerate() {
            near(&stage["energy_j"], true_j(index), 0.015);
            near(&stage["integral_j"], true_j(index), 0.015);
            assert!(number(&stage["residual"]).abs() < 0.02, "{stage}");
            // without a reading at the mark, the nearest one would be up to three seconds away
            let edges = stage["edges_s"].as_array().unwrap();
            assert!(edges.iter().all(|edge| number(edge) < 0.1), "{stage}");
        }
        near(&json["by_stage"][0]["energy_j"], true_j(0) + true_j(2), 0.015);
        near(&json["by_stage"][1]["energy_j"], true_j(1), 0.015);
        let rest = number(&json["outside_stages"]["seconds"]);
        let outside = number(&json["outside_stages"]["energy_j"]);
        assert!((outside - 150.0 * rest).abs() < 0.1 * 300.0, "{outside} J in {rest} s at 150 W");
        near(&json["idle"]["power_w"], 100.0, 0.01);
        let net = number(&json["energy_j"]) - number(&json["idle"]["power_w"]) * number(&json["seconds"]);
        near(&json["net_energy_j"], net, 1e-9);
        assert!(number(&json["energy"]["residual"]).abs() < 0.01, "{}", json["energy"]);
        assert!(number(&json["energy"]["coverage"]) > 0.95, "{}", json["energy"]);
        assert_eq!((&json["conditions"][0]["temperature_end_c"], &json["device"]), (&45.0.into(), &"Fake GPU".into()));
    }

    #[test]
    fn without_a_gpu_that_can_be_seen_auto_says_what_it_measures_in_its_place() {
        let folder = Folder::new();
        let (mut program, _) = with_gpu(&folder);
        let output = program.env("CUDA_VISIBLE_DEVICES", "").args(["meter", "--", "sleep", "1.2"]).output().unwrap();
        assert!(output.status.success());
        assert!(stderr(&output).contains("nvml is not available"), "{}", stderr(&output));
        let folder = Folder::new();
        let (mut program, _) = with_gpu(&folder);
        let output = program.args(["meter", "--gpu-indices", "99", "--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("there is no GPU 99"), "{}", stderr(&output));
    }
}

mod training {
    use super::*;

    /// The simulated experiment, with a training record for its student.
    fn simulated(folder: &Folder) -> PathBuf {
        let text = fs::read_to_string(experiment("simulated.yaml")).unwrap();
        let key = "    teacher: teacher\n";
        assert!(text.contains(key));
        folder.write("simulated.yaml", &text.replacen(key, &format!("{key}    training: energy.json\n"), 1))
    }

    #[test]
    fn a_sweep_reads_the_file_and_says_when_the_training_is_paid_back() {
        let folder = Folder::new();
        let script = "echo teach > $EPT_SWEEP_MARKS; sleep 1.1; echo <b>distil > $EPT_SWEEP_MARKS; sleep 1.1";
        let (_, mut json) = measured(&folder, &[], &script.replace("<b>distil", "'<b>distil'"));
        // the sweep is simulated, and energies of different kinds are never compared
        json["energy_method"] = "simulated".into();
        folder.write("energy.json", &json.to_string());
        let out = folder.path("run");
        sweep(&simulated(&folder), &out);
        let run: Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        let training = &run["models"][1]["training"];
        assert_eq!((&training["energy_j"], &training["seconds"]), (&json["energy_j"], &json["seconds"]));
        let stages = training["stages"].as_array().unwrap();
        assert_eq!((stages.len(), &stages[0]["name"], &stages[1]["name"]), (2, &"teach".into(), &"<b>distil".into()));
        assert_eq!(stages[0]["energy_j"], json["by_stage"][0]["energy_j"]);
        let report = fs::read_to_string(out.join("report.md")).unwrap().replace('\u{a0}', " ");
        assert!(report.contains("The energy of training student is recovered after generating"), "no break-even");
        assert!(report.contains("(stages: teach "), "the stages aren't in the provenance");
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(!page.contains("<b>distil"), "a name is text, and no markup");
    }

    #[test]
    fn a_training_that_failed_is_refused_with_a_way_out() {
        let folder = Folder::new();
        measured(&folder, &[], "sleep 1.1; exit 3");
        let file = simulated(&folder);
        let run = |out: &str| program().arg(&file).arg("--out").arg(folder.path(out)).output().unwrap();
        let output = run("refused");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("the training failed with exit code 3"), "{}", stderr(&output));
        assert!(stderr(&output).contains("accepted"), "{}", stderr(&output));
        let mut json = json(&folder.path("energy.json"));
        json["accepted"] = "only the last evaluation failed".into();
        folder.write("energy.json", &json.to_string());
        let output = run("accepted");
        assert!(output.status.success(), "{}", stderr(&output));
        let report = fs::read_to_string(folder.path("accepted").join("report.md")).unwrap();
        assert!(report.contains("only the last evaluation failed"));
    }
}
