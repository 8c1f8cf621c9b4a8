//! Models of the hub: the program against a hub of the tests' own on loopback. Each test runs the program in a process
//! of its own, with an environment and a cache of its own.

mod common;
#[path = "hub/server.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, program, repository, stderr};
use server::{COMMIT, Hub, Trouble};

const ID: &str = "owner/tiny";
const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "one": 1, "two": 2}, "unk_token": "[UNK]"}}"#;

/// A hub with one small model, and a folder for a cache and a sweep.
struct Scene {
    hub: Hub,
    folder: Folder,
}

impl Scene {
    /// A hub that has the golden model `name` under [`ID`], with a tokenizer.
    fn new(name: &str) -> Self {
        let scene = Self::empty();
        let golden = repository().join("tests/golden").join(name);
        scene.hub.add_folder(ID, &golden, &[("tokenizer.json", TOKENIZER.into())]);
        scene
    }

    fn empty() -> Self {
        let folder = Folder::new();
        folder.write("prompts.txt", "one two\n");
        Self { hub: Hub::new(), folder }
    }

    /// The program in this scene, with nothing of the machine's own hub.
    fn program(&self) -> Command {
        let mut program = program();
        program.current_dir(&self.folder.0);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().to_ascii_uppercase();
            if ["HF_", "HUGGING", "TRANSFORMERS_"].iter().any(|start| name.starts_with(start))
                || name.ends_with("_PROXY")
            {
                program.env_remove(&*name).env_remove(name.to_ascii_lowercase());
            }
        }
        program.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HOME", self.folder.path("hf"));
        program.env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
        program
    }

    /// `bench` on a model: what it says is what a user sees first.
    fn bench(&self, model: &str) -> Command {
        let mut program = self.program();
        program.args([
            "bench",
            "--device",
            "cpu",
            "--meter",
            "modelled",
            "--prompts",
            "prompts.txt",
            "--out",
            "r.json",
        ]);
        program.args(["--model", model]);
        program
    }

    /// A run of a sweep of one model, as short as a run can be.
    fn sweep(&self, source: &str, revision: Option<&str>) -> Command {
        let revision = revision.map_or(String::new(), |revision| format!("\n    revision: {revision}"));
        let text = format!(
            "name: hub\nmodels:\n  - label: tiny\n    source: {source}{revision}\n\
             sweep: {{batch_size: 1, max_new_tokens: 2}}\nprompts: {{text: [one two]}}\n\
             measure: {{meter: modelled, repeats: 2, window_s: 0.01, warmup_s: 0, idle_s: 0}}\n"
        );
        self.folder.write("sweep.yaml", &text);
        let mut program = self.program();
        program.args(["run", "sweep.yaml", "--device", "cpu", "--fresh", "--out", "run"]);
        program
    }

    /// Fetches the model and measures it.
    fn succeeds(&self, source: &str) -> Output {
        self.well(self.sweep(source, None))
    }

    fn well(&self, mut program: Command) -> Output {
        let output = program.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output
    }

    /// Runs `bench` to its failure; gives what it said.
    fn fails(&self, model: &str, code: i32) -> String {
        fails(self.bench(model), code)
    }

    /// A path in the model's cache.
    fn cached(&self, path: &str) -> PathBuf {
        self.folder.path("hf/hub/models--owner--tiny").join(path)
    }

    fn snapshot(&self, file: &str) -> PathBuf {
        self.cached("snapshots").join(COMMIT).join(file)
    }

    /// The names in a folder of the model's cache.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cached(path)) else { return vec![] };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The one file that is on its way.
    fn incomplete(&self) -> Option<PathBuf> {
        let name = self.names("blobs").into_iter().find(|name| name.ends_with(".incomplete"))?;
        Some(self.cached("blobs").join(name))
    }

    /// First bytes of the ranges that the file server was asked for, 0 for a whole file.
    fn ranges(&self) -> Vec<u64> {
        let begin = |range: &str| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
        let requests = self.hub.requests("GET /cdn/");
        requests.iter().map(|request| request.header("range").map_or(0, |range| begin(range).unwrap())).collect()
    }
}

fn fails(mut program: Command, code: i32) -> String {
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    stderr(&output)
}

fn has_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` in:\n{text}");
    }
}

fn weights(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/golden").join(name).join("model.safetensors")).unwrap()
}

/// Waits for something that another process does.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_model_of_the_hub_is_measured_and_its_commit_recorded() {
    let scene = Scene::new("sharded");
    let said = stderr(&scene.succeeds(ID));
    has_all(&said, &["fetching `owner/tiny`"]);
    let run = fs::read_to_string(scene.folder.path("run/run.json")).unwrap();
    has_all(&run, &[&format!("\"revision\": \"{COMMIT}\"")]);
    assert_eq!(scene.hub.requests("/api/models/").len(), 1, "two blocks, and the hub is asked once");
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let scene = Scene::new("gqa_tied");
    scene.succeeds(ID);
    assert_eq!(fs::read_to_string(scene.cached("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(scene.snapshot("model.safetensors")).unwrap();
    let digest = ept_sweep::digest::sha256_hex(&weights("gqa_tied"));
    assert_eq!(link, Path::new("../../blobs").join(&digest), "a large file lies under its SHA-256");
    assert_eq!(fs::read(scene.cached("blobs").join(digest)).unwrap(), weights("gqa_tied"));
    assert_eq!(scene.incomplete(), None);
}

#[test]
fn only_what_a_model_needs_is_fetched() {
    let scene = Scene::empty();
    let golden = repository().join("tests/golden/gqa_tied");
    let other = || b"not to be fetched".to_vec();
    let more = [
        ("tokenizer.json", TOKENIZER.as_bytes().to_vec()),
        ("README.md", other()),
        ("pytorch_model.bin", other()),
        ("consolidated.safetensors", other()),
        ("original/consolidated.00.pth", other()),
        ("onnx/model.safetensors", other()),
        ("model.safetensors.index.json", other()),
    ];
    scene.hub.add_folder(ID, &golden, &more);
    scene.succeeds(ID);
    assert_eq!(
        scene.names(&format!("snapshots/{COMMIT}")),
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    );
}

#[test]
fn what_is_in_the_cache_is_neither_fetched_nor_described_again() {
    let scene = Scene::new("gqa_tied");
    scene.succeeds(ID);
    let before = scene.hub.requests("/resolve/").len();
    scene.succeeds(ID);
    assert_eq!(scene.hub.requests("/resolve/").len(), before);
}

#[test]
fn a_revision_may_be_a_branch_with_a_slash_or_a_commit() {
    let scene = Scene::new("gqa_tied");
    let commit = "f".repeat(40);
    scene.hub.set_revision(ID, "refs/pr/1", &commit);
    scene.well(scene.sweep(ID, Some("refs/pr/1")));
    assert_eq!(fs::read_to_string(scene.cached("refs/refs/pr/1")).unwrap(), commit);
    assert!(scene.cached("snapshots").join(&commit).join("config.json").is_file());
    scene.well(scene.sweep(ID, Some(COMMIT)));
    assert!(scene.snapshot("config.json").is_file());
    assert_eq!(scene.names("refs"), ["refs"], "a commit needs no ref");
}

#[test]
fn offline_the_cache_alone_is_used() {
    let scene = Scene::new("sharded");
    let missing = fails(
        {
            let mut program = scene.bench(ID);
            program.env("HF_HUB_OFFLINE", "1");
            program
        },
        2,
    );
    has_all(
        &missing,
        &["can't get `owner/tiny` offline: it isn't in the local cache", "hint: start once with network"],
    );
    scene.succeeds(ID);
    let before = scene.hub.requests("").len();
    let mut program = scene.sweep(ID, None);
    program.arg("--offline");
    scene.well(program);
    let mut program = scene.sweep(ID, None);
    program.env("HF_HUB_OFFLINE", "1");
    scene.well(program);
    assert_eq!(scene.hub.requests("").len(), before, "no request");
    fs::remove_file(scene.snapshot("model-00002-of-00003.safetensors")).unwrap();
    let mut program = scene.bench(ID);
    program.arg("--offline");
    has_all(&fails(program, 2), &["holds only a part of it: `model-00002-of-00003.safetensors` is missing"]);
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Cut(1000), Trouble::Cut(500), Trouble::Status(503, None, None)]);
    scene.succeeds(ID);
    assert_eq!(scene.ranges(), [0, 1000, 1500, 1500]);
    assert_eq!(fs::read(scene.snapshot("model.safetensors")).unwrap(), weights("gqa_tied"));
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Silence(1000)]);
    let mut program = scene.sweep(ID, None);
    program.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    scene.well(program);
    assert_eq!(scene.ranges(), [0, 1000]);
}

#[test]
fn a_start_after_a_kill_goes_on_where_the_last_one_stopped() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Slow(512, Duration::from_millis(20))]);
    let mut child = scene.bench(ID).stderr(Stdio::null()).spawn().unwrap();
    let length = || scene.incomplete().and_then(|path| fs::metadata(path).ok()).map_or(0, |found| found.len());
    until("some bytes come", || length() > 2000);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = length();
    assert!(!scene.snapshot("model.safetensors").exists(), "a part is no file of the model");
    assert!(!scene.cached("refs/main").exists());
    scene.succeeds(ID);
    assert_eq!(scene.ranges(), [0, left]);
    assert_eq!(fs::read(scene.snapshot("model.safetensors")).unwrap(), weights("gqa_tied"));
}

#[test]
fn an_interrupted_download_stops_soon_and_keeps_what_it_has() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Slow(512, Duration::from_millis(100))]);
    let child = scene.bench(ID).stderr(Stdio::piped()).spawn().unwrap();
    until("some bytes come", || scene.incomplete().is_some_and(|path| fs::metadata(path).unwrap().len() > 0));
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(scene.incomplete().is_some());
}

#[test]
fn a_hub_that_stays_away_is_an_error_that_says_how_far_it_came() {
    let scene = Scene::new("gqa_tied");
    let away = std::iter::repeat_n(Trouble::Status(503, None, None), 20);
    scene.hub.trouble("GET /cdn/", [Trouble::Cut(1000)].into_iter().chain(away));
    let said = scene.fails(ID, 1);
    let size = weights("gqa_tied").len();
    has_all(&said, &["status 503", &format!("stopped after 1000 of {size} bytes"), "goes on where this one stopped"]);
    assert_eq!(scene.ranges().last(), Some(&1000));
}

#[test]
fn without_a_hub_the_error_names_its_address() {
    let scene = Scene::new("gqa_tied");
    let mut program = scene.bench(ID);
    program.env("HF_ENDPOINT", "http://127.0.0.1:9");
    has_all(&fails(program, 1), &["the connection to http://127.0.0.1:9 failed", "HF_ENDPOINT", "--offline"]);
    let mut program = scene.bench(ID);
    program.env("HF_ENDPOINT", "huggingface.co");
    has_all(&fails(program, 2), &["`HF_ENDPOINT` is no address of a hub: `huggingface.co`"]);
}

#[test]
fn a_file_of_another_length_is_refused() {
    for trouble in [Trouble::Short(1000), Trouble::Long] {
        let scene = Scene::new("gqa_tied");
        scene.hub.trouble("GET /cdn/", [trouble.clone()]);
        let said = scene.fails(ID, 2);
        has_all(&said, &["`model.safetensors`", &format!("{}", weights("gqa_tied").len())]);
        assert!(!scene.snapshot("model.safetensors").exists(), "{trouble:?}");
        scene.succeeds(ID);
    }
}

#[test]
fn a_file_with_another_digest_is_refused_and_nothing_of_it_kept() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Wrong]);
    let said = scene.fails(ID, 1);
    has_all(
        &said,
        &["`model.safetensors` isn't what the hub says: its SHA-256 is another one", "nothing of it is kept"],
    );
    assert!(!scene.snapshot("model.safetensors").exists());
    assert_eq!(scene.incomplete(), None);
    scene.succeeds(ID);
}

#[test]
fn a_wrong_beginning_that_an_earlier_start_left_is_replaced() {
    let scene = Scene::new("gqa_tied");
    let digest = ept_sweep::digest::sha256_hex(&weights("gqa_tied"));
    fs::create_dir_all(scene.cached("blobs")).unwrap();
    fs::write(scene.cached("blobs").join(format!("{digest}.incomplete")), [7; 100]).unwrap();
    scene.succeeds(ID);
    assert_eq!(scene.ranges(), [100, 0]);
}

#[test]
fn a_server_without_ranges_sends_the_whole_file_again() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Cut(1000), Trouble::NoRanges]);
    scene.succeeds(ID);
    assert_eq!(fs::read(scene.snapshot("model.safetensors")).unwrap(), weights("gqa_tied"));
}

#[test]
fn a_gated_model_says_where_to_ask_for_it() {
    let scene = Scene::new("gqa_tied");
    let page = format!("accept its terms on {}/owner/tiny", scene.hub.endpoint());
    scene.hub.trouble("/resolve/", [Trouble::Status(401, Some("GatedRepo"), None)]);
    has_all(&scene.fails(ID, 2), &["it is gated, and no token was sent", &page, "hf auth login"]);
    scene.hub.trouble("/resolve/", [Trouble::Status(403, Some("GatedRepo"), None)]);
    let mut program = scene.bench(ID);
    program.env("HF_TOKEN", "hf_of_ada");
    has_all(&fails(program, 2), &["the account of this token isn't let in", &page]);
    scene.hub.trouble("/api/", [Trouble::Status(401, None, Some("Invalid credentials in Authorization header"))]);
    let mut program = scene.bench(ID);
    program.env("HF_TOKEN", "hf_of_nobody");
    has_all(&fails(program, 2), &["doesn't take this token: Invalid credentials", "hf auth login"]);
}

#[test]
fn a_token_comes_from_the_environment_or_from_a_login() {
    let with = |prepare: &dyn Fn(&Scene, &mut Command)| {
        let scene = Scene::new("gqa_tied");
        scene.hub.lock("hf_of_ada", Trouble::Status(401, Some("GatedRepo"), None));
        let mut program = scene.sweep(ID, None);
        fs::create_dir_all(scene.folder.path("hf")).unwrap();
        prepare(&scene, &mut program);
        scene.well(program);
        assert!(scene.hub.requests("/cdn/").iter().all(|request| request.header("authorization").is_none()));
    };
    with(&|_, program| {
        program.env("HF_TOKEN", "hf_of_ada\n");
    });
    with(&|scene, _| fs::write(scene.folder.path("hf/token"), "hf_of_ada\n").unwrap());
    with(&|scene, program| {
        fs::write(scene.folder.path("elsewhere"), "hf_of_ada").unwrap();
        program.env("HF_TOKEN_PATH", scene.folder.path("elsewhere"));
    });
}

#[test]
fn what_isnt_there_is_named() {
    let scene = Scene::new("gqa_tied");
    has_all(
        &scene.fails("owner/tyni", 2),
        &["can't get `owner/tyni`: no such repository, or a private one", "spelling"],
    );
    let said = stderr(&scene.sweep(ID, Some("v2")).output().unwrap());
    has_all(&said, &["can't get `owner/tiny` at `v2`: it has no revision `v2`"]);
    scene.hub.trouble("HEAD /owner/tiny", [Trouble::Status(404, Some("EntryNotFound"), None)]);
    has_all(&scene.fails(ID, 2), &["the hub doesn't have it"]);
}

#[test]
fn too_many_requests_are_waited_for_where_the_wait_is_short() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::TooMany(1)]);
    scene.succeeds(ID);
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("HEAD /owner/tiny", [Trouble::TooMany(3600)]);
    has_all(&scene.fails(ID, 1), &["too many requests", "wait 3600 s and start again"]);
}

#[test]
fn a_bare_name_is_a_folder_or_one_of_the_hubs_oldest_models() {
    let scene = Scene::new("gqa_tied");
    scene.hub.rename("gpt2", ID);
    scene.succeeds("gpt2");
    assert!(scene.folder.path("hf/hub/models--gpt2/refs/main").is_file(), "under the name that was asked for");
    has_all(&scene.fails("mymodel", 2), &["no folder `mymodel`", "can't get `mymodel`: no such repository"]);
    let before = scene.hub.requests("").len();
    std::os::unix::fs::symlink(repository().join("tests/golden/gqa_tied"), scene.folder.path("distilgpt2")).unwrap();
    has_all(&scene.fails("distilgpt2", 2), &["tokenizer.json"]);
    assert_eq!(scene.hub.requests("").len(), before, "a folder of that name counts first");
}

#[test]
fn a_model_with_pickled_weights_alone_says_how_to_convert_it() {
    let scene = Scene::empty();
    scene.hub.add(ID, &[("config.json", b"{}".to_vec()), ("pytorch_model.bin", vec![0; 100])]);
    has_all(&scene.fails(ID, 2), &["only pickled weights (`pytorch_model.bin`)", "save_pretrained"]);
    assert!(scene.hub.requests("/resolve/").is_empty());
}

#[test]
fn of_a_repository_of_gguf_files_the_named_one_is_fetched() {
    let files = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "README.md", "tokenizer.json", "config.json"];
    for source in ["owner/tiny:m-Q8_0.gguf", "owner/tiny/m-Q8_0.gguf", "owner/tiny:Q8_0"] {
        let scene = Scene::empty();
        scene.hub.add(ID, &files.map(|name| (name, name.as_bytes().to_vec())));
        // whether its bytes are a model is the engine's affair
        let _ = scene.bench(source).output().unwrap();
        let names = scene.names(&format!("snapshots/{COMMIT}"));
        assert_eq!(names, ["config.json", "m-Q8_0.gguf", "tokenizer.json"], "{source}");
    }
    let scene = Scene::empty();
    scene.hub.add(ID, &files.map(|name| (name, name.as_bytes().to_vec())));
    has_all(&scene.fails(ID, 2), &["has no safetensors, but GGUF files", "`owner/tiny:m-Q4_K_M.gguf`, `m-Q8_0.gguf`"]);
}

#[test]
fn an_adapter_is_fetched_with_its_configuration() {
    let scene = Scene::empty();
    let files = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md"];
    scene.hub.add(ID, &files.map(|name| (name, name.as_bytes().to_vec())));
    let _ = scene.bench(ID).output().unwrap();
    assert_eq!(scene.names(&format!("snapshots/{COMMIT}")), ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn an_index_that_leads_out_of_the_cache_fetches_nothing() {
    let scene = Scene::empty();
    let index = br#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#.to_vec();
    scene.hub.add(ID, &[("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index)]);
    has_all(&scene.fails(ID, 2), &["`../../../../evil.safetensors` is no safetensors file of the repository"]);
}

#[test]
fn a_data_set_is_fetched_once_and_copied_where_it_is_asked_for() {
    let scene = Scene::empty();
    let row = r#"{"instruction": "one", "context": "", "response": "two", "category": "open_qa"}"#;
    let id = "datasets/databricks/databricks-dolly-15k";
    scene.hub.add(id, &[("databricks-dolly-15k.jsonl", format!("{row}\n{row}\n").into())]);
    let bench = || {
        let mut program = scene.program();
        program.args([
            "bench",
            "--use-dolly",
            "--num-prompts",
            "2",
            "--dolly-cache-dir",
            "dolly",
            "--meter",
            "modelled",
        ]);
        program.args(["--device", "cpu", "--out", "r.json", "--model", "./nowhere"]);
        program
    };
    for _ in 0..2 {
        has_all(&fails(bench(), 2), &["no folder"]);
        assert!(scene.folder.path("dolly/databricks-dolly-15k.jsonl").is_file());
    }
    assert_eq!(scene.hub.requests("GET /cdn/").len(), 1);
}

#[test]
fn two_processes_fetch_a_file_once() {
    let scene = Scene::new("gqa_tied");
    scene.hub.trouble("GET /cdn/", [Trouble::Slow(2048, Duration::from_millis(20))]);
    let first = scene.bench(ID).stderr(Stdio::piped()).spawn().unwrap();
    until("the first begins", || scene.incomplete().is_some());
    let second = scene.sweep(ID, None).output().unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success() && second.status.success(), "{}{}", stderr(&first), stderr(&second));
    has_all(&stderr(&second), &["is being fetched by another process"]);
    assert_eq!(scene.ranges(), [0]);
}

#[test]
fn quiet_means_no_word_of_a_download() {
    let scene = Scene::new("gqa_tied");
    let mut program = scene.sweep(ID, None);
    program.arg("--quiet");
    assert_eq!(stderr(&scene.well(program)), "");
}
