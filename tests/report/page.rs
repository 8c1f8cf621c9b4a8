use std::fs;

use ept_sweep::analysis::{BreakEven, Study, Verdict};
use ept_sweep::figures::{FigureFile, draw_all};
use ept_sweep::record::{EnergyMethod, GROUPED, OutputLength, Role, RunInfo};
use ept_sweep::report::{Rendered, render};

use crate::figures::pictures;
use crate::fixture;

/// The report with its figures, which are drawn but not written.
fn rendered(run: &RunInfo, study: &Study) -> Rendered {
    let figures = pictures(study, &fixture::power()).into_iter().map(|(name, picture)| FigureFile {
        name,
        title: "A title",
        caption: "A caption.".to_owned(),
        alt: "An <alternative>".to_owned(),
        svg: picture.svg("An <alternative>").unwrap(),
        svg_path: format!("run/figures/{name}.svg").into(),
        png_path: format!("run/figures/{name}.png").into(),
    });
    render(run, study, &figures.collect::<Vec<_>>()).unwrap()
}

fn plain(text: &str) -> String {
    text.replace(['\u{a0}', '\u{202f}'], " ")
}

/// Writes the fixture's reports into the folder that the variable names, to look at.
#[test]
#[ignore = "writes files to look at into $EPT_SWEEP_LOOK"]
fn look() {
    let root = std::path::PathBuf::from(std::env::var("EPT_SWEEP_LOOK").unwrap());
    let mut run = fixture::run();
    let label =
        |i: usize| format!("{}-of-a-model-<b>&{i}", if i.is_multiple_of(2) { "a-rather-long-label" } else { "m" });
    let role = |i: usize| if i == 0 { Role::Teacher } else { Role::Student };
    let many: Vec<_> = (0..12).map(|i| (label(i), role(i), 0.1 / (i + 1) as f64, 0.95 - 0.05 * i as f64)).collect();
    for (name, study) in [
        ("many", fixture::grid(&many, &[1, 2, 4, 8, 16, 32], &[8, 16, 32, 64, 128])),
        ("full", fixture::study()),
        ("spoiled", fixture::spoiled()),
        ("modelled", fixture::modelled(fixture::spoiled())),
    ] {
        let dir = root.join(name);
        let figures = draw_all(&study, &fixture::power(), &dir.join("figures")).unwrap();
        run.parts[0].meter = fixture::meter(study.methods[0]);
        let report = render(&run, &study, &figures).unwrap();
        fs::write(dir.join("report.html"), report.html).unwrap();
        fs::write(dir.join("report.md"), report.markdown).unwrap();
    }
}

#[test]
fn an_engine_that_cannot_pad_is_named_in_the_method_and_beside_its_model() {
    let mut run = fixture::run();
    let padded = rendered(&run, &fixture::study());
    assert!(!padded.markdown.contains("groups of prompts of equal length"));
    let info = run.parts[0].models.get_mut("student-kd").unwrap();
    info.engine = "candle-transformers".to_owned();
    info.notes = vec![GROUPED.to_owned()];
    let report = rendered(&run, &fixture::study());
    for page in [&report.html, &report.markdown] {
        assert!(page.contains("The engine of student-kd (candle-transformers) can"));
        assert!(page.contains(GROUPED));
    }
}

#[test]
fn the_headline_answers_in_one_sentence_with_its_interval() {
    let report = rendered(&fixture::run(), &fixture::study());
    let sentence = "At equal batch size and output length, student-kd takes 71 % less energy per generated token than \
        teacher (95 % interval 69–73 %, 5 repeats of 6 cells), and answers 78 % against 94 % of the held-out prompts \
        exactly.";
    assert!(plain(&report.html).contains(sentence), "{}", headline(&report.html));
    assert!(plain(&report.markdown).contains(&format!("**{sentence}**")));
}

fn headline(html: &str) -> String {
    plain(html.split("class=\"headline\">").nth(1).unwrap().split("</p>").next().unwrap())
}

#[test]
fn each_verdict_has_its_own_headline() {
    let with = |verdict, saving| {
        let mut study = fixture::study();
        study.overall[0].ept_out = fixture::comparison(saving, 0.05, verdict);
        headline(&render(&fixture::run(), &study, &[]).unwrap().html)
    };
    assert!(
        with(Verdict::Regressed, -0.2)
            .contains("takes 20 % more energy per generated token than teacher (95 % interval 15–25 %")
    );
    assert!(with(Verdict::Equivalent, 0.01).contains("takes as much energy per generated token as teacher"));
    assert!(with(Verdict::Inconclusive, 0.02).contains("the data don&#x27;t tell whether student-kd"));
}

#[test]
fn fixed_length_says_that_the_saving_is_the_sizes() {
    let mut run = fixture::run();
    let said = "the saving is the size's, and distillation's part is the accuracy";
    let report = render(&run, &fixture::study(), &[]).unwrap();
    assert!(report.markdown.contains(said));
    assert!(plain(&report.markdown).contains(
        "Exact match of student-kd minus that of student-ce, which was trained without the \
        teacher: +12 points [5, 19]."
    ));
    run.cells.iter_mut().for_each(|cell| cell.output_length = OutputLength::Natural);
    assert!(!render(&run, &fixture::study(), &[]).unwrap().markdown.contains(said));
}

#[test]
fn a_study_without_a_comparison_names_its_thriftiest_cell() {
    let mut study = fixture::study();
    study.overall.clear();
    study.savings.clear();
    let report = render(&fixture::run(), &study, &[]).unwrap();
    assert!(
        headline(&report.html)
            .starts_with("Of 18 cells, student-kd with batch size 16 and 64 new tokens takes the least")
    );
    for cell in &mut study.cells {
        cell.ept_out_j = None;
    }
    assert!(headline(&render(&fixture::run(), &study, &[]).unwrap().html).starts_with("No cell has a valid energy"));
}

#[test]
fn a_study_without_anything_still_makes_a_report() {
    let mut run = fixture::run();
    run.parts.clear();
    run.models.clear();
    run.cells.clear();
    run.question = None;
    run.notes = None;
    let report = render(&run, &fixture::grid(&[], &[], &[]), &[]).unwrap();
    assert!(report.html.contains("No cell has a valid energy"));
    check_markdown_tables(&report.markdown);
}

#[test]
fn modelled_energy_is_marked_on_the_page_in_each_table_of_energies_and_in_each_figure() {
    let study = fixture::modelled(fixture::study());
    let mut run = fixture::run();
    run.parts[0].meter = fixture::meter(EnergyMethod::Modelled);
    let report = rendered(&run, &study);
    assert!(headline(&report.html).starts_with("Modelled, not measured: at equal batch size"));
    assert!(report.html.contains("<aside class=\"warning\""));
    for id in ["table-savings", "table-results"] {
        let table = report.html.split(&format!("<table id=\"{id}\">")).nth(1).unwrap();
        assert!(table.split("</caption>").next().unwrap().contains("modelled, not measured"), "{id}");
    }
    for figure in report.html.split("<figure").skip(1) {
        assert!(figure.split("</svg>").next().unwrap().contains("modelled, not measured"));
    }
    assert_eq!(report.markdown.matches("**modelled, not measured**").count(), 2);
    let measured = render(&fixture::run(), &fixture::study(), &[]).unwrap();
    assert!(!measured.html.contains("not measured") && !measured.markdown.contains("not measured"));
}

#[test]
fn hostile_text_is_escaped_everywhere() {
    const HOSTILE: &str = "<script>alert('x')</script>|`*_[a](javascript:b) & \"q\"";
    let mut study = fixture::spoiled();
    for cell in &mut study.cells {
        cell.id = HOSTILE.to_owned();
        cell.model = HOSTILE.to_owned();
        cell.failures = vec![HOSTILE.to_owned()];
    }
    study.points.iter_mut().for_each(|p| p.model = HOSTILE.to_owned());
    study.savings.iter_mut().for_each(|s| s.student = HOSTILE.to_owned());
    study.overall.iter_mut().for_each(|o| o.student = HOSTILE.to_owned());
    study.accuracies.iter_mut().for_each(|a| {
        a.model = HOSTILE.to_owned();
        a.dataset = HOSTILE.to_owned();
        a.by_category[0].0 = HOSTILE.to_owned();
    });
    let mut run = fixture::run();
    for text in [&mut run.name, &mut run.sweep_file, &mut run.sweep_yaml, &mut run.prompts.source] {
        *text = HOSTILE.to_owned();
    }
    run.question = Some(HOSTILE.to_owned());
    run.notes = Some(HOSTILE.to_owned());
    run.parts[0].host.cpu = Some(HOSTILE.to_owned());
    run.parts[0].meter.notes = vec![HOSTILE.to_owned()];
    run.parts[0].meter.domains[0].description = HOSTILE.to_owned();
    let report = rendered(&run, &study);
    assert!(!report.html.contains("<script"), "script in the page");
    let outside_the_sweep_file = report.markdown.split("<details>").next().unwrap();
    assert!(!outside_the_sweep_file.contains("<script") && !outside_the_sweep_file.contains("[a](java"));
    check_markdown_tables(&report.markdown);
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let report = rendered(&fixture::run(), &fixture::spoiled());
    let html = report.html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for needle in ["http://", "https://", "//cdn", "<script", "<link", "@import", "url(", "<iframe", "src="] {
        assert!(!html.contains(needle), "{needle}");
    }
}

#[test]
fn markdown_tables_have_equal_column_counts() {
    for study in [fixture::study(), fixture::spoiled(), fixture::modelled(fixture::spoiled())] {
        let report = rendered(&fixture::run(), &study);
        assert!(check_markdown_tables(&report.markdown) >= 5);
    }
}

/// Checks every table of a Markdown file, and that it stands apart from the text around it; gives their number.
fn check_markdown_tables(markdown: &str) -> usize {
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut tables = 0;
    for block in markdown.split("\n\n").map(str::trim).filter(|block| block.starts_with('|')) {
        let lines: Vec<&str> = block.lines().collect();
        assert!(lines[1].starts_with("| --- |"), "{block}");
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])), "{block}");
        assert!(lines.iter().all(|line| line.starts_with('|') && line.ends_with('|')), "{block}");
        tables += 1;
    }
    tables
}

#[test]
fn what_went_wrong_is_shown_with_its_meaning() {
    let report = rendered(&fixture::run(), &fixture::spoiled());
    let html = plain(&report.html);
    for text in
        ["residual_too_large", "disagree by more than 5 %", "out of memory", "too long for the model", "2&#x2f;5"]
    {
        assert!(html.contains(text), "{text}");
    }
    assert!(html.contains("<dt>Valid trials</dt><dd>82 of 90</dd>"));
    assert!(html.contains("mixed methods") && html.contains(">never <"));
}

#[test]
fn a_break_even_is_in_tokens_or_says_why_not() {
    let mut study = fixture::study();
    let report = render(&fixture::run(), &study, &[]).unwrap();
    assert!(plain(&report.markdown).contains("is paid back after 1.24 million tokens [1.13, 1.35]"));
    study.overall[0].break_even = BreakEven::Never;
    assert!(render(&fixture::run(), &study, &[]).unwrap().markdown.contains("never paid back for certain"));
}
