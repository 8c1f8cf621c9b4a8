//! The walls, each a function from the source to what breaks it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::source::{Kind, Named, SourceFile, Token, Tree};

/// The rooms of `docs/design.md`, read from its table.
pub(crate) struct Rooms {
    /// From the top of the import order to its end.
    pub order: Vec<String>,
    /// Third-party crate → the rooms that may use it.
    pub doors: BTreeMap<String, BTreeSet<String>>,
    /// The most lines that a file may have without its tests.
    pub budget: usize,
}

impl Rooms {
    /// Reads the table under the heading that begins with `## Rooms`, and the sentence that states the size budget.
    pub(crate) fn read(design: &str) -> Self {
        let section = design.split("\n## ").find(|section| section.starts_with("Rooms")).expect("a section `Rooms`");
        let section = section.split("\n### ").next().unwrap_or(section);
        let (mut order, mut doors) = (vec![], BTreeMap::<String, BTreeSet<String>>::new());
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "a row of the table of rooms has three cells: {row}");
            let rooms = in_backticks(cells[0]);
            for name in in_backticks(cells[2]) {
                doors.entry(name.replace('-', "_")).or_default().extend(rooms.iter().cloned());
            }
            order.extend(rooms);
        }
        assert!(!order.is_empty(), "the table of rooms has no rows");
        let (_, after) = section.split_once("at most ").expect("a sentence with `at most N lines`");
        let budget = after.split(' ').next().and_then(|number| number.parse().ok()).expect("a number of lines");
        Self { order, doors, budget }
    }

    fn place(&self, room: &str) -> Option<usize> {
        self.order.iter().position(|name| name == room)
    }
}

fn in_backticks(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names of `[dependencies]`, as code writes them.
pub(crate) fn dependencies(manifest: &str) -> BTreeSet<String> {
    let section = manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]"));
    let lines = section.expect("a section `[dependencies]`").lines();
    let names = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    names.map(|(name, _)| name.trim().split('.').next().unwrap_or_default().replace('-', "_")).collect()
}

fn at(file: &SourceFile, line: usize) -> String {
    format!("src/{}:{line}", file.path)
}

/// Imports of the code, tests left out: what a test looks at doesn't make the code depend on it.
fn imports(tree: &Tree) -> impl Iterator<Item = (&SourceFile, &Named, Vec<String>)> {
    let files = tree.files.iter().filter(|file| !file.test);
    let named = files.flat_map(|file| file.named.iter().map(move |named| (file, named)));
    named
        .filter(|(_, named)| !named.test)
        .filter_map(|(file, named)| tree.absolute(named).map(|path| (file, named, path)))
}

/// Rooms without a row, and rows without a room.
pub(crate) fn missing_rooms(tree: &Tree, rooms: &Rooms) -> Vec<String> {
    let there: BTreeSet<&str> =
        tree.files.iter().filter(|file| !file.test && file.path != "lib.rs").map(SourceFile::room).collect();
    let without_row = there.iter().filter(|room| rooms.place(room).is_none());
    let without_row =
        without_row.map(|room| format!("src/{room}: not in the table of rooms; give it a row in docs/design.md"));
    let without_room = rooms.order.iter().filter(|room| !there.contains(room.as_str()));
    let without_room =
        without_room.map(|room| format!("docs/design.md: the room `{room}` isn't in src; remove it from the table"));
    let twice = rooms.order.iter().enumerate().filter(|(index, room)| rooms.order[..*index].contains(room));
    let twice = twice.map(|(_, room)| format!("docs/design.md: the room `{room}` is in the table twice"));
    without_row.chain(without_room).chain(twice).collect()
}

/// Imports of a room further down.
pub(crate) fn upward_imports(tree: &Tree, rooms: &Rooms) -> Vec<String> {
    let mut found = vec![];
    for (file, named, path) in imports(tree) {
        let (from, Some(to)) = (file.room(), path.first()) else { continue };
        if let (Some(here), Some(there)) = (rooms.place(from), rooms.place(to))
            && there > here
        {
            found.push(format!(
                "{}: `{from}` uses `{}`, but `{to}` comes after `{from}` in the table of rooms; move what both need \
                 into a room above `{from}`, or pass it in",
                at(file, named.line),
                named.segments.join("::"),
            ));
        }
    }
    found
}

/// What lies between the run directory and the page.
const REPORTING: [&str; 5] = ["frame", "analysis", "format", "figures", "report"];

/// What makes a run directory.
const MEASURING: [&str; 10] =
    ["prompts", "text", "hub", "engine", "meter", "sweep", "model", "store", "stage", "evaluate"];

/// Imports of measuring in reporting, whatever their order is.
pub(crate) fn through_the_wall(tree: &Tree) -> Vec<String> {
    let crossing = imports(tree).filter(|(file, _, path)| {
        REPORTING.contains(&file.room()) && path.first().is_some_and(|room| MEASURING.contains(&room.as_str()))
    });
    crossing
        .map(|(file, named, path)| {
            format!(
                "{}: `{}` uses `{}`, but measuring and reporting share only the files on disk; what both need belongs \
                 in `record`",
                at(file, named.line),
                file.room(),
                path.join("::"),
            )
        })
        .collect()
}

/// Third-party crates in rooms that aren't their door. Tests inside of `src` count as well: a crate can only be
/// exchanged behind its door if nothing else was written against it.
pub(crate) fn second_doors(
    tree: &Tree,
    rooms: &Rooms,
    dependencies: &BTreeSet<String>,
    anywhere: &[&str],
) -> Vec<String> {
    let mut found = BTreeSet::new();
    for file in &tree.files {
        for named in &file.named {
            let name = &named.segments[0];
            let is_crate = dependencies.contains(name) && tree.absolute(named).is_none();
            if !is_crate || anywhere.contains(&name.as_str()) {
                continue;
            }
            let door = rooms.doors.get(name);
            if door.is_some_and(|door| !door.contains(file.room())) {
                let allowed = door.into_iter().flatten().cloned().collect::<Vec<_>>().join("`, `");
                found.insert(format!(
                    "{}: `{}` uses `{name}`, which only `{allowed}` may use; call that room, or change the table in \
                     docs/design.md",
                    at(file, named.line),
                    file.room(),
                ));
            }
        }
    }
    found.into_iter().collect()
}

/// Crates that have no door, and doors to crates that aren't there.
pub(crate) fn doors_and_dependencies(rooms: &Rooms, dependencies: &BTreeSet<String>, anywhere: &[&str]) -> Vec<String> {
    let undecided =
        dependencies.iter().filter(|name| !rooms.doors.contains_key(*name) && !anywhere.contains(&name.as_str()));
    let undecided = undecided.map(|name| {
        format!("Cargo.toml: no room is the door for `{name}`; name it in the table of rooms in docs/design.md")
    });
    let gone = rooms.doors.keys().map(String::as_str).chain(anywhere.iter().copied());
    let gone = gone.filter(|name| !dependencies.contains(*name));
    let gone = gone.map(|name| format!("docs/design.md: `{name}` is no dependency; remove it from the table of rooms"));
    undecided.chain(gone).collect()
}

/// Circles of files inside a room, each with the line of every step.
pub(crate) fn circles(tree: &Tree) -> Vec<String> {
    let mut steps: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for (index, file) in tree.files.iter().enumerate().filter(|(_, file)| !file.test) {
        for named in file.named.iter().filter(|named| !named.test) {
            let Some(to) = tree.absolute(named).and_then(|path| tree.definition(&path)) else { continue };
            if to != index && !tree.files[to].test && tree.files[to].room() == file.room() {
                steps.entry(index).or_default().entry(to).or_insert(named.line);
            }
        }
    }
    let mut found = vec![];
    let mut seen: HashSet<usize> = HashSet::new();
    for &start in steps.keys() {
        if seen.contains(&start) {
            continue;
        }
        if let Some(circle) = shortest_circle(&steps, start) {
            let step = |(from, to): (&usize, &usize)| at(&tree.files[*from], steps[from][to]);
            let next = circle.iter().cycle().skip(1);
            let way = circle.iter().zip(next).map(step).collect::<Vec<_>>().join(" → ");
            found.push(format!(
                "{way} → src/{}: a circle of imports; move what these files share into one that imports none of them",
                tree.files[start].path,
            ));
            seen.extend(circle);
        }
    }
    found
}

/// The files of a shortest way from a file back to itself.
fn shortest_circle(steps: &BTreeMap<usize, BTreeMap<usize, usize>>, start: usize) -> Option<Vec<usize>> {
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(here) = waiting.pop_front() {
        for &next in steps.get(&here).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                let mut circle = vec![here];
                while let Some(before) = came_from.get(&circle[circle.len() - 1]) {
                    circle.push(*before);
                }
                circle.reverse();
                return Some(circle);
            }
            if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(next) {
                entry.insert(here);
                waiting.push_back(next);
            }
        }
    }
    None
}

/// Numbers that are rounded into a string outside of `format`: a precision or an exponent in a format string, or
/// `round().to_string()`. Errors may, since what they repeat are limits and what somebody wrote; `exempt` has files
/// whose numbers aren't measured ones.
pub(crate) fn rounded_for_people(tree: &Tree, exempt: &[(&str, &str)]) -> Vec<String> {
    let files = tree.files.iter().filter(|file| file.room() != "format");
    let files = files.filter(|file| !exempt.iter().any(|(path, _)| *path == file.path));
    files
        .flat_map(|file| {
            let code: Vec<&Token> = file.code().collect();
            let rounds = |window: &[&Token]| {
                let words = ["round", "(", ")", ".", "to_string"];
                window.iter().zip(words).all(|(token, word)| token.text == word)
            };
            let rounded = code.windows(5).filter(|window| rounds(window)).map(|window| window[0].line);
            let formatted = code.iter().enumerate().filter(|(index, token)| {
                token.kind == Kind::Text && has_precision(&token.text) && !in_error(&code[..*index])
            });
            let lines: BTreeSet<usize> = formatted.map(|(_, token)| token.line).chain(rounded).collect();
            lines.into_iter().map(|line| {
                format!(
                    "{}: rounds a number for people, which only `format` does; add a function there",
                    at(file, line)
                )
            })
        })
        .collect()
}

/// Whether the statement that the tokens break off in makes an error or its hint.
fn in_error(before: &[&Token]) -> bool {
    let ends = |token: &Token| token.kind == Kind::Mark && [";", "{", "}"].contains(&token.text.as_str());
    let statement = before.iter().rev().take_while(|token| !ends(token));
    let makers = ["Error", "context", "hint", "message"];
    statement.filter(|token| token.kind == Kind::Word).any(|token| makers.contains(&token.text.as_str()))
}

/// Whether a format string has a placeholder with a precision or an exponent: `{:.2}`, `{x:8.digits$}`, `{:e}`.
fn has_precision(text: &str) -> bool {
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if let Some(escaped) = rest.strip_prefix('{') {
            rest = escaped;
            continue;
        }
        let Some(close) = rest.find('}') else { return false };
        let (placeholder, after) = (&rest[..close], &rest[close + 1..]);
        rest = after;
        let Some((argument, spec)) = placeholder.split_once(':') else { continue };
        let is_argument = argument.chars().all(|c| c.is_alphanumeric() || c == '_');
        let precise = spec.rfind('.').is_some_and(|dot| {
            let precision = &spec[dot + 1..];
            precision.starts_with('*') || precision.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        });
        let plain = |c: char| c.is_alphanumeric() || "<>^+-#_.$*".contains(c);
        if is_argument && spec.chars().all(plain) && (precise || spec.ends_with(['e', 'E'])) {
            return true;
        }
    }
    false
}

/// Files with more lines than the budget, their tests not counted.
pub(crate) fn large_files(tree: &Tree, budget: usize) -> Vec<String> {
    let large = tree.files.iter().filter(|file| !file.test && file.lines > budget);
    large
        .map(|file| {
            format!(
                "src/{}: {} lines without tests, more than the {budget} of docs/design.md; split it by concept",
                file.path, file.lines,
            )
        })
        .collect()
}

/// What prints or writes in the room of single trials, which gives back everything that it finds.
pub(crate) fn loud_stage(tree: &Tree) -> Vec<String> {
    let loud = ["println", "eprintln", "print", "eprint", "File", "OpenOptions"];
    let stage = tree.files.iter().filter(|file| file.room() == "stage");
    stage
        .flat_map(|file| {
            let words = file.code().filter(|token| token.kind == Kind::Word && loud.contains(&token.text.as_str()));
            let files = file.named.iter().filter(|named| !named.test && named.segments.starts_with(&fs()));
            let lines: BTreeSet<usize> = words.map(|token| token.line).chain(files.map(|named| named.line)).collect();
            lines.into_iter().map(|line| format!("{}: the stage prints and writes nothing; return it", at(file, line)))
        })
        .collect()
}

fn fs() -> [String; 2] {
    ["std".to_owned(), "fs".to_owned()]
}
