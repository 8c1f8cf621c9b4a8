//! The walls between the rooms of `src/`, as the table in `docs/design.md` draws them.

mod checks;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use checks::Rooms;
use source::Tree;

/// Crates that have no door, since they are a language of their own rather than a service: serialisation, random
/// numbers, threads, the C library, likeness of names.
const ANYWHERE: [&str; 7] = ["serde", "serde_json", "rand", "rand_chacha", "rayon", "libc", "strsim"];

/// Files that write numbers with a precision, which aren't measured ones.
const NOT_MEASURED: [(&str, &str); 1] = [("figures/picture.rs", "lengths in an SVG file")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tree() -> Tree {
    let source = root().join("src");
    let (mut folders, mut files) = (vec![source.clone()], vec![]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&source).unwrap().to_string_lossy().replace('\\', "/");
                files.push((name, read(&path)));
            }
        }
    }
    Tree::of(files)
}

fn rooms() -> Rooms {
    Rooms::read(&read(&root().join("docs/design.md")))
}

fn dependencies() -> BTreeSet<String> {
    checks::dependencies(&read(&root().join("Cargo.toml")))
}

#[track_caller]
fn none(offences: &[String]) {
    assert!(offences.is_empty(), "{} of them:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn the_table_of_rooms_and_the_folders_are_the_same() {
    none(&checks::missing_rooms(&tree(), &rooms()));
}

#[test]
fn a_room_imports_only_from_rooms_above_it() {
    none(&checks::upward_imports(&tree(), &rooms()));
}

#[test]
fn reporting_never_imports_measuring() {
    none(&checks::through_the_wall(&tree()));
}

#[test]
fn each_third_party_crate_has_one_door() {
    none(&checks::second_doors(&tree(), &rooms(), &dependencies(), &ANYWHERE));
}

#[test]
fn every_dependency_is_behind_a_door_or_allowed_everywhere() {
    none(&checks::doors_and_dependencies(&rooms(), &dependencies(), &ANYWHERE));
}

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    none(&checks::circles(&tree()));
}

#[test]
fn a_measured_number_becomes_a_string_only_in_format() {
    none(&checks::rounded_for_people(&tree(), &NOT_MEASURED));
}

#[test]
fn no_file_is_larger_than_the_design_allows() {
    none(&checks::large_files(&tree(), rooms().budget));
}

#[test]
fn the_stage_writes_nothing_and_prints_nothing() {
    none(&checks::loud_stage(&tree()));
}

/// The checks on made-up source, so that each is known to find what it is for.
mod made_up {
    use super::*;

    const DESIGN: &str = "# Design\n\n## Rooms (`src/`)\n\nA file has at most 3 lines without its tests.\n\n\
        | room | owns | door |\n|---|---|---|\n| `error`, `units` | | |\n| `table` | | `polars` |\n\
        | `stage`, `engine` | `x` | `candle-core` |\n| `frame` | | `polars` |\n| `format`, `report` | | |\n\n\
        ## Next\n\n| `no` | | |\n";

    fn of(files: &[(&str, &str)]) -> Tree {
        Tree::of(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())))
    }

    fn design() -> Rooms {
        Rooms::read(DESIGN)
    }

    fn crates() -> BTreeSet<String> {
        checks::dependencies(
            "[package]\na = 1\n\n[dependencies]\n# why\npolars = \"1\"\ncandle-core = { x = 1 }\n\n[x]\nb = 1",
        )
    }

    /// Finds as many offences as expected, each of which has the expected words.
    #[track_caller]
    fn finds(offences: &[String], expected: &[&[&str]]) {
        assert_eq!(offences.len(), expected.len(), "{offences:#?}");
        for (offence, words) in offences.iter().zip(expected) {
            assert!(words.iter().all(|word| offence.contains(word)), "{words:?} in: {offence}");
        }
    }

    #[track_caller]
    fn upward(text: &str, lines: &[usize]) {
        let found = checks::upward_imports(&of(&[("table.rs", text)]), &design());
        let expected: Vec<String> = lines.iter().map(|line| format!("src/table.rs:{line}:")).collect();
        assert_eq!(found.len(), lines.len(), "{found:#?}");
        assert!(found.iter().zip(&expected).all(|(found, place)| found.starts_with(place)), "{found:#?}");
    }

    #[test]
    fn the_table_gives_the_order_the_doors_and_the_budget() {
        let rooms = design();
        assert_eq!(rooms.order.join(" "), "error units table stage engine frame format report");
        assert_eq!(rooms.doors.keys().cloned().collect::<Vec<_>>(), ["candle_core", "polars"]);
        assert_eq!(rooms.doors["polars"].iter().cloned().collect::<Vec<_>>(), ["frame", "table"]);
        assert_eq!(rooms.budget, 3);
        assert_eq!(crates().into_iter().collect::<Vec<_>>(), ["candle_core", "polars"]);
    }

    #[test]
    fn an_import_of_a_later_room_is_found_however_it_is_written() {
        upward("use crate::engine::Engine;", &[1]);
        upward("use crate::{\n    error::Error,\n    engine::{self, x::{Y, Z}},\n    frame as f,\n};", &[3, 3, 3, 4]);
        upward("pub use crate::engine::*;", &[1]);
        upward("fn f() {\n    let x = crate::engine::new();\n    g::<crate::frame::A>(x)\n}", &[2, 3]);
        upward("fn f() { println!(\"{}\", crate::format::watts(1.0)) }", &[1]);
        upward("macro_rules! m { () => { $crate::engine::run() } }", &[1]);
        upward(
            "#[serde(with = \"x\")]\n#[derive(crate::engine::Derive)]\nstruct A(<u8 as crate::report::T>::O);",
            &[2, 3],
        );
        upward("use super::engine::Engine;\nmod inside { use super::super::frame::F; }", &[1, 2]);
    }

    #[test]
    fn imports_from_above_comments_strings_and_tests_are_no_offence() {
        upward("use crate::{error::Result, units};\nuse self::inner::X;\nfn f(a: &'static str) -> char { '\"' }", &[]);
        upward(
            "//! crate::engine::X\n/* use crate::engine; /* nested */ crate::frame::X */\n/// [`crate::report`]",
            &[],
        );
        upward(
            "const A: &str = \"use crate::engine::X; \\\" crate::frame::X\";\n\
            const B: &str = r#\"\" crate::engine::X\"#;",
            &[],
        );
        upward(
            "#[cfg(test)]\n#[expect(dead_code)]\nmod tests {\n    use crate::engine::X;\n}\n\
            #[cfg(test)]\nuse crate::frame::F;",
            &[],
        );
        upward("#[cfg(test)]\nfn f() { crate::engine::x() }\nfn g() { crate::engine::x() }", &[3]);
    }

    #[test]
    fn the_files_of_a_module_under_cfg_test_are_tests() {
        let tests = ("table/tests.rs", "use crate::engine::X;\nuse polars::Y;");
        let tree = of(&[("table/mod.rs", "#[cfg(test)]\nmod tests;"), tests]);
        assert!(checks::upward_imports(&tree, &design()).is_empty());
        let tree = of(&[
            ("table/mod.rs", "#[cfg(test)]\n#[path = \"table_tests.rs\"]\nmod tests;"),
            ("table/table_tests.rs", tests.1),
        ]);
        assert!(checks::upward_imports(&tree, &design()).is_empty());
        let tree = of(&[("table/mod.rs", "mod tests;"), tests]);
        assert_eq!(checks::upward_imports(&tree, &design()).len(), 1);
    }

    #[test]
    fn a_page_that_measures_is_found_though_the_order_allows_it() {
        let tree = of(&[("report/page.rs", "use crate::{engine::Engine, frame};"), ("stage.rs", "use crate::frame;")]);
        finds(&checks::through_the_wall(&tree), &[&["src/report/page.rs:1", "`report` uses `engine::Engine`"]]);
    }

    #[test]
    fn a_second_door_is_found_in_tests_too() {
        let text =
            "use polars::prelude::*;\n#[cfg(test)]\nmod tests {\n    fn f() { ::candle_core::Tensor::zeros() }\n}";
        let tree = of(&[("engine/mod.rs", text), ("table.rs", "use polars::X; use std::fs;")]);
        let found = checks::second_doors(&tree, &design(), &crates(), &[]);
        finds(&found, &[&["src/engine/mod.rs:1", "`engine` uses `polars`", "`frame`, `table`"]]);
        let tree = of(&[("frame.rs", text)]);
        finds(&checks::second_doors(&tree, &design(), &crates(), &[]), &[&["src/frame.rs:4", "`candle_core`"]]);
        assert!(checks::second_doors(&tree, &design(), &crates(), &["candle_core"]).is_empty());
    }

    #[test]
    fn a_crate_without_a_door_and_a_door_without_a_crate_are_found() {
        let dependencies = ["polars", "rand"].map(str::to_owned).into();
        let expected: [&[&str]; 2] = [&["Cargo.toml", "`rand`"], &["docs/design.md", "`candle_core` is no dependency"]];
        finds(&checks::doors_and_dependencies(&design(), &dependencies, &[]), &expected);
        finds(&checks::doors_and_dependencies(&design(), &dependencies, &["rand"]), &expected[1..]);
    }

    #[test]
    fn a_folder_without_a_row_and_a_row_without_a_folder_are_found() {
        let names = ["error", "units", "table", "stage", "engine", "frame", "format", "extra"];
        let files: Vec<(String, String)> = names.iter().map(|name| (format!("{name}.rs"), String::new())).collect();
        let found = checks::missing_rooms(&Tree::of(files), &design());
        finds(&found, &[&["src/extra"], &["the room `report` isn't in src"]]);
    }

    #[test]
    fn circles_of_files_are_named_with_the_lines_of_their_steps() {
        let tree = of(&[
            ("engine/mod.rs", "mod a;\nmod b;\nmod c;"),
            ("engine/a.rs", "use super::b::B;"),
            ("engine/b.rs", "\nuse crate::engine::c;"),
            ("engine/c.rs", "fn f() {}\n\nfn g() { super::a::f() }"),
        ]);
        let way = "src/engine/a.rs:1 → src/engine/b.rs:2 → src/engine/c.rs:3 → src/engine/a.rs";
        finds(&checks::circles(&tree), &[&[way]]);
    }

    #[test]
    fn a_parent_with_code_of_its_own_that_a_child_imports_is_a_circle() {
        let child = ("engine/a.rs", "use super::Shared;");
        let tree = of(&[("engine/mod.rs", "mod a;\nstruct Shared;\nfn f() { a::g() }"), child]);
        finds(&checks::circles(&tree), &[&["src/engine/a.rs:1 → src/engine/mod.rs:3"]]);
    }

    #[test]
    fn a_parent_that_only_re_exports_makes_no_circle() {
        let tree = of(&[
            ("engine/mod.rs", "mod a;\nmod b;\npub use a::A;\npub use b::{B, C as D};"),
            ("engine/a.rs", "use super::{B, D};\n#[cfg(test)]\nmod tests { use super::super::*; }"),
            ("engine/b.rs", "pub struct B;"),
        ]);
        finds(&checks::circles(&tree), &[]);
        let both = ("engine/b.rs", "use crate::engine::A;");
        let tree = of(&[
            ("engine/mod.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;"),
            ("engine/a.rs", "use super::B;"),
            both,
        ]);
        finds(&checks::circles(&tree), &[&["src/engine/a.rs:1 → src/engine/b.rs:1"]]);
    }

    #[test]
    fn rounding_outside_of_format_is_found() {
        let text = "fn f(x: f64) {\n\
            format!(\"{x:.2}\");\n\
            format!(\"{:>8.digits$}\", x);\n\
            format!(\"{:e}\", x);\n\
            x.round().to_string();\n\
            Error::input(format!(\"{x:e}\"));\n\
            format!(\"{{x:.2}} {x} {x:?} {x:>3} at 3:.5 {name: a.b}\");\n}\n\
            #[cfg(test)]\nmod tests { fn f() { format!(\"{:.1}\", 1.0); } }";
        let tree = of(&[("report/a.rs", text), ("format/mod.rs", text), ("report/svg.rs", text)]);
        let found = checks::rounded_for_people(&tree, &[("report/svg.rs", "a reason")]);
        let places = [2, 3, 4, 5].map(|line| format!("src/report/a.rs:{line}"));
        finds(&found, &places.each_ref().map(|place| [place.as_str()]).each_ref().map(|words| &words[..]));
    }

    #[test]
    fn a_large_file_is_found_and_its_tests_do_not_count() {
        let tests = "#[cfg(test)]\nmod tests {\n\n\n}\n";
        let tree = of(&[("table.rs", "a\nb\nc\nd\n"), ("frame.rs", &format!("a\nb\nc\n{tests}"))]);
        finds(&checks::large_files(&tree, 3), &[&["src/table.rs: 4 lines"]]);
    }

    #[test]
    fn a_stage_that_prints_or_writes_is_found() {
        let text = "use std::fs;\nfn f() { println!() }\nfn g() { std::fs::write() }\n// println!\n";
        let found = checks::loud_stage(&of(&[("stage/mod.rs", text), ("engine.rs", text)]));
        finds(&found, &[&["stage/mod.rs:1"], &["stage/mod.rs:2"], &["stage/mod.rs:3"]]);
    }
}
