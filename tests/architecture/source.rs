//! Rust source as far as the walls need it: the paths that code names, modules, strings, and which lines are tests.

use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, a keyword or a number.
    Word,
    /// A string literal of any kind, without its quotes.
    Text,
    /// `::`, or a single character.
    Mark,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
    /// In an item under `#[cfg(test)]`.
    pub test: bool,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

/// A path that code names, in an import or elsewhere, also inside of macro calls and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// As written, `crate`, `self` and `super` included; a glob import ends in `*`.
    pub segments: Vec<String>,
    pub line: usize,
    pub test: bool,
    /// The module that the path is written in: `["a", "b"]` for `src/a/b.rs`.
    pub module: Vec<String>,
    /// The name that an import gives it; `None` for other paths.
    pub imported_as: Option<String>,
}

/// A module that a file declares, with or without a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    pub module: Vec<String>,
    pub test: bool,
    /// The file that a `#[path]` names, relative to the folder of the file that declares it.
    pub path: Option<String>,
}

pub(crate) struct SourceFile {
    /// Relative to `src`, with `/` between folders.
    pub path: String,
    pub module: Vec<String>,
    pub tokens: Vec<Token>,
    pub named: Vec<Named>,
    pub declared: Vec<Declared>,
    /// Lines outside of tests.
    pub lines: usize,
    /// The whole file is part of a module under `#[cfg(test)]`.
    pub test: bool,
}

impl SourceFile {
    fn parse(path: &str, text: &str, module: Vec<String>) -> Self {
        let mut reader = Reader { tokens: tokens(text), named: vec![], declared: vec![] };
        reader.mark_tests();
        reader.read(0, reader.tokens.len(), &module);
        let lines = text.lines().count() - spanned_lines(&reader.tokens).len();
        let Reader { tokens, named, declared } = reader;
        Self { path: path.to_owned(), module, tokens, named, declared, lines, test: false }
    }

    /// The first part of its module path; `lib` and `main` for the roots of the library and of the program.
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or_else(|| self.path.trim_end_matches(".rs"), String::as_str)
    }

    /// Tokens outside of tests.
    pub(crate) fn code(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().filter(|token| !self.test && !token.test)
    }
}

/// All lines from the first to the last token of each run of test tokens.
fn spanned_lines(tokens: &[Token]) -> HashSet<usize> {
    let runs = tokens.chunk_by(|a, b| a.test == b.test).filter(|run| run[0].test);
    runs.flat_map(|run| run[0].line..=run[run.len() - 1].line).collect()
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; `lib.rs` and `main.rs` have no path.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect()
}

/// Files that a file declares by `#[path]`, and their modules.
fn moved(file: &SourceFile) -> Vec<(String, Vec<String>)> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let moved = file.declared.iter().filter_map(|declared| declared.path.as_ref().map(|path| (declared, path)));
    moved
        .map(|(declared, path)| {
            (format!("{folder}/{path}").trim_start_matches('/').to_owned(), declared.module.clone())
        })
        .collect()
}

/// The files of a crate, and where its modules are.
pub(crate) struct Tree {
    pub files: Vec<SourceFile>,
    /// Module path → index of the file that holds it.
    modules: HashMap<Vec<String>, usize>,
}

impl Tree {
    pub(crate) fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let texts: Vec<(String, String)> = files.into_iter().collect();
        let parse = |(path, text): &(String, String)| SourceFile::parse(path, text, module_of(path));
        let mut files: Vec<SourceFile> = texts.iter().map(parse).collect();
        for (path, module) in files.iter().flat_map(moved).collect::<Vec<_>>() {
            if let Some(index) = texts.iter().position(|text| text.0 == path) {
                files[index] = SourceFile::parse(&path, &texts[index].1, module);
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let tests: Vec<Vec<String>> =
            files.iter().flat_map(|file| &file.declared).filter(|it| it.test).map(|it| it.module.clone()).collect();
        for file in &mut files {
            file.test = tests.iter().any(|module| file.module.starts_with(module));
        }
        let mut modules = HashMap::new();
        for (index, file) in files.iter().enumerate() {
            modules.extend(file.declared.iter().map(|declared| (declared.module.clone(), index)));
        }
        modules.extend(files.iter().enumerate().map(|(index, file)| (file.module.clone(), index)));
        Self { files, modules }
    }

    /// A path from the crate's root; `None` if it isn't of this crate, or of a child of the module it is written in.
    pub(crate) fn absolute(&self, named: &Named) -> Option<Vec<String>> {
        let first = named.segments[0].as_str();
        let mut rest = &named.segments[..];
        let mut module = match first {
            "crate" | "ept_sweep" => vec![],
            "self" | "super" => named.module.clone(),
            _ if self.is_child(&named.module, first) => named.module.clone(),
            _ => return None,
        };
        if ["crate", "ept_sweep", "self"].contains(&first) {
            rest = &rest[1..];
        }
        while rest.first().is_some_and(|segment| segment == "super") {
            module.pop();
            rest = &rest[1..];
        }
        module.extend(rest.iter().cloned());
        Some(module)
    }

    fn is_child(&self, module: &[String], name: &str) -> bool {
        let mut child = module.to_vec();
        child.push(name.to_owned());
        self.modules.contains_key(&child)
    }

    /// The file that defines what an absolute path names, through imports and re-exports by name.
    pub(crate) fn definition(&self, path: &[String]) -> Option<usize> {
        self.follow(path, 8)
    }

    fn follow(&self, path: &[String], hops: usize) -> Option<usize> {
        let known = (0..=path.len()).rev().find(|&length| self.modules.contains_key(&path[..length]))?;
        let (module, rest) = path.split_at(known);
        let file = self.modules[module];
        let Some(name) = rest.first() else { return Some(file) };
        let imports = self.files[file].named.iter().filter(|named| named.module == module);
        let mut of_name = imports.filter(|named| named.imported_as.as_ref() == Some(name));
        let onward = of_name.next().and_then(|named| self.absolute(named));
        match onward {
            Some(onward) if hops > 0 && onward != path => self.follow(&onward, hops - 1),
            _ => Some(file),
        }
    }
}

struct Reader {
    tokens: Vec<Token>,
    named: Vec<Named>,
    declared: Vec<Declared>,
}

impl Reader {
    /// Marks the tokens of each item under `#[cfg(test)]`, its attributes included.
    fn mark_tests(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            let attribute = self.tokens[at].is("#") && self.is(at + 1, "[");
            if !attribute {
                at += 1;
                continue;
            }
            let end = self.partner(at + 1);
            let condition = self.tokens[at + 2..end].iter().map(|token| token.text.as_str()).collect::<Vec<_>>();
            if condition.starts_with(&["cfg", "(", "test", ")"])
                || condition.starts_with(&["cfg", "(", "all", "(", "test"])
            {
                let last = self.item_end(end + 1);
                self.tokens[at..=last].iter_mut().for_each(|token| token.test = true);
                at = last;
            }
            at += 1;
        }
    }

    /// Index of the last token of the item that begins at `at`.
    fn item_end(&self, mut at: usize) -> usize {
        while at < self.tokens.len() {
            let opens = ["(", "[", "{"].iter().any(|open| self.is(at, open));
            if self.is(at, ";") || self.is(at, ",") {
                return at;
            }
            let body = self.is(at, "{");
            if opens {
                at = self.partner(at);
            }
            if body && !self.is(at + 1, ";") {
                return at;
            }
            at += 1;
        }
        self.tokens.len() - 1
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(text))
    }

    /// Index of the bracket that closes the one at `open`.
    fn partner(&self, open: usize) -> usize {
        let mut depth = 0;
        for (index, token) in self.tokens.iter().enumerate().skip(open).filter(|(_, token)| token.kind == Kind::Mark) {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" if depth == 1 => return index,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
        }
        self.tokens.len() - 1
    }

    fn read(&mut self, mut at: usize, end: usize, module: &[String]) {
        while at < end {
            at = match self.tokens[at].text.as_str() {
                _ if self.tokens[at].kind != Kind::Word => at + 1,
                "use" if !self.is(at + 1, "<") => self.import(at + 1, &[], module),
                "mod" if self.tokens.get(at + 1).is_some_and(|token| token.kind == Kind::Word) => {
                    self.module(at + 1, module)
                }
                _ => self.path(at, module),
            };
        }
    }

    /// Reads `mod name;` or `mod name { … }` from its name on; returns where it goes on.
    fn module(&mut self, at: usize, module: &[String]) -> usize {
        let mut child = module.to_vec();
        child.push(self.tokens[at].text.clone());
        let path = self.path_attribute(at);
        self.declared.push(Declared { module: child.clone(), test: self.tokens[at].test, path });
        if !self.is(at + 1, "{") {
            return at + 1;
        }
        let end = self.partner(at + 1);
        self.read(at + 2, end, &child);
        end + 1
    }

    /// The value of `#[path = "…"]` before the declaration whose name is at `at`.
    fn path_attribute(&self, at: usize) -> Option<String> {
        let start = self.tokens[..at].iter().rposition(|token| [";", "{", "}"].iter().any(|end| token.is(end)));
        let mut before = self.tokens[start.map_or(0, |end| end + 1)..at].windows(3);
        before.find(|window| window[0].is("path") && window[1].is("=")).map(|window| window[2].text.clone())
    }

    /// Reads one tree of an import, whose path so far is `prefix`; returns where it goes on.
    fn import(&mut self, mut at: usize, prefix: &[String], module: &[String]) -> usize {
        let mut segments = prefix.to_vec();
        let line = self.tokens[at].line;
        while let Some(token) = self.tokens.get(at) {
            if token.is("{") {
                let end = self.partner(at);
                at += 1;
                while at < end {
                    at = self.import(at, &segments, module) + 1;
                }
                return end + 1;
            }
            if token.kind == Kind::Word || token.is("*") {
                segments.push(token.text.clone());
            }
            at += 1;
            if !(self.is(at, "::") || self.is(at - 1, "::")) {
                break;
            }
        }
        let renamed = self.is(at, "as");
        let alias = if renamed { self.tokens[at + 1].text.clone() } else { String::new() };
        at += if renamed { 2 } else { 0 };
        // `a::{self, b}` names `a`
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let name = if renamed { alias } else { segments.last().cloned().unwrap_or_default() };
        self.name(segments, line, module, at - 1, Some(name));
        at
    }

    /// Reads the path that begins at a word; returns where it goes on.
    fn path(&mut self, start: usize, module: &[String]) -> usize {
        let mut at = start;
        let mut segments = vec![self.tokens[at].text.clone()];
        while self.is(at + 1, "::") && self.tokens.get(at + 2).is_some_and(|token| token.kind == Kind::Word) {
            at += 2;
            segments.push(self.tokens[at].text.clone());
        }
        let continues = start > 0 && (self.is(start - 1, "::") || self.is(start - 1, "."));
        let from_root = start > 1 && self.is(start - 1, "::") && self.tokens[start - 2].kind != Kind::Word;
        if segments.len() > 1 && (!continues || from_root) {
            self.name(segments, self.tokens[start].line, module, start, None);
        }
        at + 1
    }

    fn name(&mut self, segments: Vec<String>, line: usize, module: &[String], at: usize, imported_as: Option<String>) {
        let test = self.tokens[at].test;
        self.named.push(Named { segments, line, test, module: module.to_vec(), imported_as });
    }
}

/// The tokens of Rust source, without its comments.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: vec![] };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        let first = rest.chars().next().unwrap_or_default();
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment(rest));
        } else if let Some((length, quotes)) = string(rest) {
            let (open, close) = quotes;
            self.push(Kind::Text, &rest[open..length - close]);
            self.skip(length);
        } else if first == '\'' {
            self.skip(quoted_character(rest));
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            self.push(Kind::Word, &rest[..length]);
            self.skip(length);
        } else if rest.starts_with("::") {
            self.push(Kind::Mark, "::");
            self.skip(2);
        } else {
            if !first.is_whitespace() {
                self.push(Kind::Mark, &rest[..first.len_utf8()]);
            }
            self.skip(first.len_utf8());
        }
    }

    fn push(&mut self, kind: Kind, text: &str) {
        self.tokens.push(Token { kind, text: text.to_owned(), line: self.line, test: false });
    }

    fn skip(&mut self, bytes: usize) {
        let (done, rest) = self.rest.split_at(bytes);
        self.line += done.matches('\n').count();
        self.rest = rest;
    }
}

/// Bytes of the comment that `text` begins with, nested comments included.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Bytes of the string literal that `text` begins with, and how many of them open and close it.
fn string(text: &str) -> Option<(usize, (usize, usize))> {
    let prefix = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let hashes = text[prefix..].len() - text[prefix..].trim_start_matches('#').len();
    let raw = text[..prefix].ends_with('r');
    let open = prefix + hashes + 1;
    if prefix > 2 || (hashes > 0 && !raw) || !text[prefix + hashes..].starts_with('"') {
        return None;
    }
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let length = text[open..].find(&end).map_or(text.len(), |at| open + at + end.len());
        return Some((length, (open, end.len())));
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(open) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((at + 1, (open, 1))),
            _ => {}
        }
    }
    Some((text.len(), (open, 0)))
}

/// Bytes of the character literal that `text` begins with, or of the lifetime's apostrophe.
fn quoted_character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let after = at + escaped.len_utf8();
            text[after..].find('\'').map_or(text.len(), |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
