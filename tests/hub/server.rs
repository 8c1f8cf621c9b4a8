//! A hub on loopback: the parts of the Hugging Face hub's API that a client meets while it fetches a model, and every
//! way in which that goes wrong. It speaks HTTP with the standard library alone.
//!
//! Small files are answered by the hub itself, under git's ETag; large ones are links to a "file server" at another
//! address, whose ETag is none of the hub's.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit that `main` stands for.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What happens to one answer, in place of the right one.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Another status, with `X-Error-Code` and `X-Error-Message` where they are named.
    Status(u16, Option<&'static str>, Option<&'static str>),
    /// 429 with `Retry-After`.
    TooMany(u64),
    /// So many bytes of the body, then the connection is closed.
    Cut(usize),
    /// So many bytes of the body, then silence for as long as the hub lives.
    Silence(usize),
    /// Other bytes of the same length.
    Wrong,
    /// A body that is shorter than the file, as if it were whole.
    Short(usize),
    /// A body that is longer than the file, without a length.
    Long,
    /// The whole file, whatever range was asked for.
    NoRanges,
    /// A piece of the body at a time, with a pause after each.
    Slow(usize, Duration),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    revisions: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, Repository>,
    /// The new id of a repository that was renamed.
    renamed: BTreeMap<String, String>,
    /// Troubles by the words that a request's method and path have to hold; the first is used up.
    troubles: Vec<(String, VecDeque<Trouble>)>,
    /// Answers that a request without this token gets.
    locked: Option<(String, Trouble)>,
    requests: Vec<Request>,
    hub: String,
    files: String,
}

/// A hub; it ends with the value.
pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    addresses: [SocketAddr; 2],
}

impl Hub {
    /// A hub without repositories.
    pub(crate) fn new() -> Self {
        let (state, ended) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap());
        {
            let mut state = state.lock().unwrap();
            (state.hub, state.files) = (format!("http://{}", addresses[0]), format!("http://{}", addresses[1]));
        }
        for listener in listeners {
            let (state, ended) = (Arc::clone(&state), Arc::clone(&ended));
            thread::spawn(move || serve(&listener, &state, &ended));
        }
        Self { state, ended, addresses }
    }

    /// Its address, as `HF_ENDPOINT` has it.
    pub(crate) fn endpoint(&self) -> String {
        self.state.lock().unwrap().hub.clone()
    }

    /// Adds a repository with these files at `main`; a data set's id begins with `datasets/`.
    pub(crate) fn add(&self, id: &str, files: &[(&str, Vec<u8>)]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let revisions = [("main".to_owned(), COMMIT.to_owned())].into();
        self.state.lock().unwrap().repositories.insert(id.to_owned(), Repository { files, revisions });
    }

    /// Adds a repository with the files of a folder.
    pub(crate) fn add_folder(&self, id: &str, folder: &Path, more: &[(&str, Vec<u8>)]) {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: std::path::PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        };
        let mut files: Vec<(String, Vec<u8>)> = entries.filter(|path| path.is_file()).map(read).collect();
        files.extend(more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
        let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        self.add(id, &files);
    }

    /// Lets a revision stand for a commit.
    pub(crate) fn set_revision(&self, id: &str, revision: &str, commit: &str) {
        let mut state = self.state.lock().unwrap();
        let repository = state.repositories.get_mut(id).unwrap();
        repository.revisions.insert(revision.to_owned(), commit.to_owned());
    }

    /// Sends whoever asks for `old` to `new`.
    pub(crate) fn rename(&self, old: &str, new: &str) {
        self.state.lock().unwrap().renamed.insert(old.to_owned(), new.to_owned());
    }

    /// The next requests whose `METHOD /path` holds `words` meet these troubles, one each.
    pub(crate) fn trouble(&self, words: &str, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.lock().unwrap().troubles.push((words.to_owned(), troubles.into_iter().collect()));
    }

    /// Files are given to this token alone.
    pub(crate) fn lock(&self, token: &str, otherwise: Trouble) {
        self.state.lock().unwrap().locked = Some((token.to_owned(), otherwise));
    }

    /// The requests so far whose `METHOD /path` holds `words`.
    pub(crate) fn requests(&self, words: &str) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        let held = |request: &&Request| format!("{} {}", request.method, request.path).contains(words);
        state.requests.iter().filter(held).cloned().collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for address in self.addresses {
            // wakes the listener, so that it sees the end
            let _ = TcpStream::connect(address);
        }
    }
}

fn serve(listener: &TcpListener, state: &Arc<Mutex<State>>, ended: &Arc<AtomicBool>) {
    for stream in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (state, ended) = (Arc::clone(state), Arc::clone(ended));
        // a client that goes away in the middle ends its own thread alone
        thread::spawn(move || {
            let _ = answer(stream, &state, &ended);
        });
    }
}

/// Reads one request, answers it and closes the connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>, ended: &AtomicBool) -> std::io::Result<()> {
    let Some(request) = read_request(&stream)? else { return Ok(()) };
    let (response, trouble) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let trouble = state.trouble(&request);
        (state.respond(&request, trouble.as_ref()), trouble)
    };
    let body = if request.method == "HEAD" { &[] } else { &response.body[..] };
    stream.write_all(response.head().as_bytes())?;
    match trouble {
        Some(Trouble::Cut(length)) => stream.write_all(&body[..length.min(body.len())])?,
        Some(Trouble::Silence(length)) => {
            stream.write_all(&body[..length.min(body.len())])?;
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
        }
        Some(Trouble::Slow(piece, pause)) => {
            for piece in body.chunks(piece) {
                stream.write_all(piece)?;
                thread::sleep(pause);
            }
        }
        _ => stream.write_all(body)?,
    }
    stream.flush()?;
    stream.shutdown(Shutdown::Both)
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Ok(Some(Request { method, path, headers })),
        };
    }
}

struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    length: Option<usize>,
}

impl Response {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: vec![], length: Some(body.len()), body }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn head(&self) -> String {
        let mut text = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", self.status);
        if let Some(length) = self.length {
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text + "\r\n"
    }
}

impl State {
    fn trouble(&mut self, request: &Request) -> Option<Trouble> {
        let line = format!("{} {}", request.method, request.path);
        let waiting =
            self.troubles.iter_mut().filter(|(words, left)| line.contains(words.as_str()) && !left.is_empty());
        let next = waiting.into_iter().next().and_then(|(_, left)| left.pop_front());
        let locked = self.locked.as_ref().filter(|(token, _)| {
            line.contains("/resolve/") && request.header("authorization") != Some(&format!("Bearer {token}"))
        });
        next.or_else(|| locked.map(|(_, trouble)| trouble.clone()))
    }

    fn respond(&self, request: &Request, trouble: Option<&Trouble>) -> Response {
        match trouble {
            Some(Trouble::Status(status, code, message)) => error(*status, *code, *message),
            Some(Trouble::TooMany(seconds)) => error(429, None, None).with("Retry-After", seconds.to_string()),
            other => self.right(request, other),
        }
    }

    fn right(&self, request: &Request, trouble: Option<&Trouble>) -> Response {
        let path = request.path.split('?').next().unwrap();
        for (old, new) in &self.renamed {
            for (from, to) in [
                (format!("/api/models/{old}/"), format!("/api/models/{new}/")),
                (format!("/{old}/"), format!("/{new}/")),
            ] {
                if let Some(rest) = path.strip_prefix(&from) {
                    return Response::new(307, "Temporary Redirect").with("Location", to + rest);
                }
            }
        }
        if let Some(rest) = path.strip_prefix("/api/") {
            return self.listing(rest);
        }
        if let Some(rest) = path.strip_prefix("/cdn/") {
            return self.on_file_server(request, rest, trouble);
        }
        self.resolved(request, path, trouble)
    }

    /// `models/{id}/revision/{revision}`.
    fn listing(&self, path: &str) -> Response {
        let id = path.strip_prefix("models/").unwrap_or(path);
        let Some((id, revision)) = id.split_once("/revision/") else { return error(404, None, None) };
        let Some(repository) = self.repositories.get(id) else { return error(401, Some("RepoNotFound"), None) };
        let revision = revision.replace("%2F", "/");
        let Some(commit) = repository.commit(&revision) else { return error(404, Some("RevisionNotFound"), None) };
        let siblings = repository.files.keys().map(|name| serde_json::json!({"rfilename": name}));
        let siblings = serde_json::Value::from_iter(siblings);
        Response::new(200, serde_json::json!({"id": id, "sha": commit, "siblings": siblings}).to_string())
            .with("Content-Type", "application/json")
    }

    /// `{id}/resolve/{revision}/{file}`: a small file, or a link to the file server.
    fn resolved(&self, request: &Request, path: &str, trouble: Option<&Trouble>) -> Response {
        let Some((id, rest)) = path[1..].split_once("/resolve/") else { return error(404, None, None) };
        let Some(repository) = self.repositories.get(id) else { return error(401, Some("RepoNotFound"), None) };
        let (revision, file) = rest.split_once('/').unwrap();
        let Some(commit) = repository.commit(&revision.replace("%2F", "/")) else {
            return error(404, Some("RevisionNotFound"), None);
        };
        let Some(bytes) = repository.files.get(file) else {
            return error(404, Some("EntryNotFound"), None).with("X-Repo-Commit", commit);
        };
        if is_large(file) {
            let etag = hex(&Sha256::digest(bytes));
            return Response::new(302, "Found. Redirecting to the file server")
                .with("X-Linked-Etag", format!("\"{etag}\""))
                .with("X-Linked-Size", bytes.len().to_string())
                .with("X-Repo-Commit", commit)
                .with("Location", format!("{}/cdn/{id}/{file}", self.files));
        }
        content(request, bytes, trouble).with("ETag", format!("\"{}\"", git_etag(bytes))).with("X-Repo-Commit", commit)
    }

    fn on_file_server(&self, request: &Request, path: &str, trouble: Option<&Trouble>) -> Response {
        let found = self
            .repositories
            .iter()
            .find_map(|(id, repository)| repository.files.get(path.strip_prefix(id.as_str())?.strip_prefix('/')?));
        match found {
            Some(bytes) => content(request, bytes, trouble).with("ETag", "\"of-the-file-server\""),
            None => error(404, None, None),
        }
    }
}

impl Repository {
    /// The commit of a branch, a tag or a commit.
    fn commit(&self, revision: &str) -> Option<&String> {
        self.revisions.get(revision).or_else(|| self.revisions.values().find(|commit| *commit == revision))
    }
}

/// The bytes that were asked for, whole or from one on.
fn content(request: &Request, bytes: &[u8], trouble: Option<&Trouble>) -> Response {
    let from = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match (trouble, from) {
        (Some(Trouble::Wrong), from) => {
            let wrong: Vec<u8> = bytes[from.unwrap_or(0)..].iter().map(|byte| byte ^ 1).collect();
            ranged(wrong, from, bytes.len())
        }
        (Some(Trouble::Short(length)), _) => Response::new(200, &bytes[..*length]),
        (Some(Trouble::Long), _) => Response { length: None, ..Response::new(200, [bytes, b"more"].concat()) },
        (Some(Trouble::NoRanges), _) | (_, None) => Response::new(200, bytes),
        (_, Some(from)) if from >= bytes.len() => Response::new(416, ""),
        (_, Some(from)) => ranged(bytes[from..].to_vec(), Some(from), bytes.len()),
    }
}

fn ranged(body: Vec<u8>, from: Option<usize>, whole: usize) -> Response {
    match from {
        None => Response::new(200, body),
        Some(from) => Response::new(206, body).with("Content-Range", format!("bytes {from}-{}/{whole}", whole - 1)),
    }
}

fn error(status: u16, code: Option<&str>, message: Option<&str>) -> Response {
    let mut response = Response::new(status, "{\"error\": \"as scripted\"}");
    if let Some(code) = code {
        response = response.with("X-Error-Code", code);
    }
    match message {
        Some(message) => response.with("X-Error-Message", message),
        None => response,
    }
}

/// Large files are kept outside git.
fn is_large(file: &str) -> bool {
    [".safetensors", ".gguf", ".bin", ".jsonl"].iter().any(|ending| file.ends_with(ending))
}

/// Forty digits that depend on the contents, as git's; git's own digest isn't needed for that.
fn git_etag(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))[..40].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
