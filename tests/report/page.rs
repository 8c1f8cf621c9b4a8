use ept_sweep::analysis::{BreakEven, Study, Undecided, Verdict};
use ept_sweep::figures::FigureFile;
use ept_sweep::record::{EnergyMethod, OutputLength, Padding, RunInfo};
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

#[test]
fn an_engine_that_cannot_pad_is_named_in_the_method_and_beside_its_model() {
    let mut run = fixture::run();
    let padded = rendered(&run, &fixture::study());
    assert!(!padded.markdown.contains("groups of prompts of equal length"));
    let info = run.parts[0].models.get_mut("student-kd").unwrap();
    info.engine = "candle-transformers".to_owned();
    (info.padding, info.notes) = (Padding::Grouped, vec!["a note of the engine itself".to_owned()]);
    let report = rendered(&run, &fixture::study());
    for page in [&report.html, &report.markdown] {
        assert!(page.contains("The engine of student-kd (candle-transformers) cannot pad"));
        assert!(page.contains("a note of the engine itself"));
    }
}

#[test]
fn the_headline_answers_in_one_sentence_with_its_interval() {
    let report = rendered(&fixture::run(), &fixture::study());
    let sentence = "At equal batch size and output length, student-kd uses 71 % less energy per generated token than \
        teacher (95 % interval 69–73 %, 5 repeats of 6 cells); exact match on the held-out prompts is 78 %, compared \
        with 94 % for teacher.";
    assert!(plain(&report.html).contains(sentence), "{}", headline(&report.html));
    assert!(plain(&report.markdown).contains(&format!("**{sentence}**")));
}

#[test]
fn the_headline_states_the_saving_at_the_floor_where_both_floors_are_known() {
    let report = rendered(&fixture::run(), &fixture::with_floors());
    let clause = "(95 % interval 69–73 %, 5 repeats of 6 cells); at the energy floor the saving is 78 % (the engine uses 1.20 \
        times the floor for teacher and 1.60 times for student-kd); exact match";
    assert!(headline(&report.html).contains(clause), "{}", headline(&report.html));
    let markdown = plain(&report.markdown);
    for row in ["| 1.60×<br>[1.580, 1.620] | 6.60<br>[6.50, 6.70] |", "| 3020<br>[3010, 3030] |", "| 97 % | 227 |"] {
        assert!(markdown.contains(row), "{row} is not in\n{markdown}");
    }
    let without = rendered(&fixture::run(), &fixture::study());
    assert!(!without.markdown.contains("nergy floor") && !without.markdown.contains("What the engine costs"));
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
            .contains("uses 20 % more energy per generated token than teacher (95 % interval 15–25 %")
    );
    assert!(
        with(Verdict::Equivalent, 0.01).contains("uses the same energy per generated token as teacher, to within 1 %")
    );
    assert!(with(Verdict::Inconclusive, 0.02).contains("the data do not show whether student-kd uses less energy"));
}

#[test]
fn fixed_length_says_that_the_saving_is_the_sizes() {
    let mut run = fixture::run();
    let said = "The saving therefore comes from the smaller size; what distillation contributes is accuracy.";
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
            .starts_with("Of 18 cells, student-kd with batch size 16 and 64 new tokens uses the least")
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
    let studies = [fixture::study(), fixture::spoiled(), fixture::modelled(fixture::spoiled()), fixture::with_floors()];
    for study in studies {
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
    for text in [
        "residual_too_large",
        "disagree by more than eight standard deviations",
        "out of memory",
        "too long for the model",
        "2&#x2f;5",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert!(html.contains("<dt>Valid trials</dt><dd>82 of 90</dd>"));
    assert!(html.contains("mixed methods") && html.contains(">never <"));
}

#[test]
fn a_break_even_is_in_tokens_or_says_why_not() {
    let mut study = fixture::study();
    let report = render(&fixture::run(), &study, &[]).unwrap();
    assert!(plain(&report.markdown).contains("is recovered after generating 1.24 million tokens [1.13, 1.35]"));
    study.overall[0].break_even = BreakEven::Never;
    assert!(
        render(&fixture::run(), &study, &[])
            .unwrap()
            .markdown
            .contains("may never be recovered: the estimated saving is not positive")
    );
}

/// The rows of a table of the Markdown page, by the beginning of its caption.
fn table<'a>(markdown: &'a str, caption: &str) -> Vec<&'a str> {
    let after = markdown.split(caption).nth(1).unwrap_or_else(|| panic!("no table `{caption}`"));
    after.lines().skip(1).skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|')).collect()
}

#[test]
fn a_gpu_run_shows_the_conditions_of_its_windows() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    let markdown = plain(&report.markdown);
    let windows = table(&markdown, "The windows of each cell");
    assert!(windows[0].contains("Residual (worst)") && windows[0].contains("Clock events"), "{}", windows[0]);
    let first = windows.iter().find(|row| row.contains("| teacher.b1.n16 |")).unwrap();
    for text in ["7 valid", "20.3", "0.21 %", "99.8", "100 ms", "58 → 61.5 °C", "1755 MHz", "≥ 1695 MHz"] {
        assert!(first.contains(text), "{text}: {first}");
    }
    assert!(first.contains("power cap 85 %") && first.contains("−1.20 W"), "{first}");
    let warned = windows.iter().find(|row| row.contains("| teacher.b4.n16 |")).unwrap();
    assert!(warned.contains("warnings: residual noticeable, idle drift") && warned.contains("−3.4 %"), "{warned}");
    let invalid = windows.iter().find(|row| row.contains("| teacher.b16.n16 |")).unwrap();
    assert!(invalid.contains("6 valid, 1 invalid<br>invalid: throttled"), "{invalid}");
    assert!(windows.last().unwrap().contains("teacher.b1.n1<br>only for prefill and decode"));
    check_markdown_tables(&report.markdown);
}

#[test]
fn compared_cells_show_their_conditions_and_what_their_temperatures_may_explain() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    let markdown = plain(&report.markdown);
    let rows = table(&markdown, "Conditions of the compared cells");
    for text in ["| student-kd | teacher |", "59.8 → 59 °C", "1810 → 1980 MHz", "85 → 0 %", "700 W", "−0.31 %"]
    {
        assert!(rows[2].contains(text), "{text}: {}", rows[2]);
    }
    assert!(rows[3].contains("−1.13 %"), "{}", rows[3]);
    assert_eq!(rows.len(), 2 + 12);
    let remark = "In 1 of 6 cells, student-kd and teacher ran at temperatures of which the difference may explain more \
        than half of the floor of 1 %: up to −1.13 % of the ratio of their energies.";
    for page in [&report.html, &report.markdown] {
        assert!(plain(page).contains(remark));
    }
    let fitted = "by the temperature of the core: 0.410 % per °C [0.380, 0.440] (12 warm-ups, 45–62 °C).";
    assert!(markdown.contains(fitted), "{markdown}");
    let without = plain(&rendered(&fixture::run(), &fixture::study()).markdown);
    assert!(!without.contains("Conditions of the compared cells") && !without.contains("per °C"));
}

#[test]
fn only_a_run_that_was_balanced_is_said_to_be() {
    let mut run = fixture::run();
    let balanced = |run: &RunInfo| plain(&rendered(run, &fixture::study()).markdown).contains("balanced over blocks");
    assert!(balanced(&run));
    run.protocol.balanced = false;
    assert!(!balanced(&run));
}

#[test]
fn in_the_order_by_model_the_headline_says_why_there_is_no_verdict() {
    let mut study = fixture::gpu_study();
    for overall in &mut study.overall {
        overall.undecided = Some(Undecided::ByModel);
        (overall.ept_out.verdict, overall.ept_out.p_adjusted) = (Verdict::Inconclusive, None);
    }
    let markdown = plain(&rendered(&fixture::gpu_run(), &study).markdown);
    let sentence = "the saving of student-kd compared with teacher is 71 % (95 % interval 69–73 %, 5 repeats of 6 \
        cells), without a verdict: each model ran at a time of its own (order by_model)";
    assert!(markdown.contains(sentence), "{markdown}");
    assert!(
        table(&markdown, "Energy per output token of each model")
            .iter()
            .any(|row| { row.contains("inconclusive<br>order by model") })
    );
    assert!(markdown.contains("comparisons have no p value and no verdict"));
    assert!(markdown.contains("on the log scale, as independent samples, without p values and verdicts. Exact match"));
}

#[test]
fn a_gpu_run_shows_prefill_and_decode_by_three_methods_with_what_keeps_them_apart() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    for page in [&report.html, &report.markdown] {
        let page = plain(page);
        assert!(page.contains("back-to-back prefill") && page.contains("clock and power state"));
    }
    let markdown = plain(&report.markdown);
    let phases = table(&markdown, "Energy of prefill per prompt");
    for column in ["Prefill by difference", "Prefill by regression", "Decode inside windows", "Disagreement"] {
        assert!(phases[0].contains(column), "{column}: {}", phases[0]);
    }
    assert!(phases[2].contains("curvature: 1.20 µJ") && phases[2].contains("7 %"), "{}", phases[2]);
    assert_eq!(phases.len(), 2 + 3);
}

#[test]
fn a_gpu_run_compares_ept_benchs_estimator_and_shows_the_processors_energy() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    let markdown = plain(&report.markdown);
    let estimator = table(&markdown, "EPT-Bench's estimator compared with ours");
    assert!(estimator[2].contains("96.2<br>[95.8, 96.6]"), "{}", estimator[2]);
    let domains = table(&markdown, "Energy of one pass over the prompts by component");
    assert!(domains[0].contains("GPU") && domains[0].contains("CPU") && domains[0].contains("Memory"));
    assert!(domains[2].contains("80 %"), "{}", domains[2]);
}

#[test]
fn a_gpu_run_has_its_gpus_and_its_sources_in_the_provenance() {
    let mut run = fixture::gpu_run();
    let report = rendered(&run, &fixture::gpu_study());
    let markdown = plain(&report.markdown);
    let gpus = table(&markdown, "The GPUs in use");
    for text in ["580.159", "96.00.99", "700 W<br>the default", "1980 MHz, 2619 MHz", "| on | on | off | none |"] {
        assert!(gpus[2].contains(text), "{text}: {}", gpus[2]);
    }
    assert!(gpus[3].contains("500 W<br>default 700 W") && gpus[3].contains("pid 4242"), "{}", gpus[3]);
    let sources = table(&markdown, "The sources of energy and power");
    assert!(sources[2].contains("100 ms<br>70 ms to 103 ms") && sources[2].contains("5.5 ms"), "{}", sources[2]);
    assert!(sources[5].contains("unsupported"), "{}", sources[5]);
    // a second start found the counter's tick a little different: the meter is the same, what was found isn't
    run.parts.push(run.parts[0].clone());
    run.parts[1].meter = fixture::gpu_meter(0.102);
    let again = plain(&rendered(&run, &fixture::gpu_study()).markdown);
    assert_eq!(again.matches("Energy (meter: nvml)").count(), 1);
    let sources = table(&again, "The sources of energy and power");
    assert_eq!(sources.len(), 2 + 5, "the counter twice, the other sources once");
    assert!(sources.iter().any(|row| row.contains("gpu0<br>part 2") && row.contains("102 ms")));
}

#[test]
fn the_method_of_a_gpu_run_says_how_it_was_measured_and_what_no_interval_reflects() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    let markdown = plain(&report.markdown);
    for text in [
        "with the preset publication",
        "(order by_model); the order of its cells is random, drawn with seed 42, and balanced over blocks: every \
         second block runs in the reverse order of the one before. Measured only",
        "Measured only to separate prefill from decode, and excluded from every comparison, figure and headline: \
         1 further cell.",
        "at least 3 s, extended up to 9 s (and by as long as the device had rested before) until what may still be to come \
         of the energy's approach to its steady state is below 1 %, and its bound below twice that.",
        "A random wait of up to 100 ms",
        "The same work runs for 500 ms before and after it",
        "with the model loaded, before and after its trials in each block, after 3 s of rest for the clocks to settle.",
        "the largest difference was −1.20 W",
        "Repeats are adaptive: after the first 5 repeats",
        "within ± 2 % of its mean, up to 15 repeats.",
        "Every cell reached this half-width, and measuring stopped after 7 repeats.",
        "- Systematic uncertainty of the sensor: unknown. NVIDIA documents",
        "Only gpu0 and gpu1 are counted;",
        "Also measured, and reported separately: dram-0, package-0.",
        "- Order by_model: all repeats of a model",
        "18 cells, 5 to 7 repeats each",
    ] {
        assert!(markdown.contains(text), "{text}");
    }
}

/// The report on a GPU run of which repeats ended so; only these texts differ.
fn stopped(repeats: usize, wide: &[&str], unknown: &[&str]) -> String {
    let names = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut study = fixture::gpu_study();
    let stopping = study.stopping.as_mut().unwrap();
    (stopping.repeats, stopping.wide, stopping.unknown) = (repeats, names(wide), names(unknown));
    stopping.narrow = study.cells.len() - wide.len() - unknown.len();
    plain(&rendered(&fixture::gpu_run(), &study).markdown)
}

#[test]
fn repeats_that_stopped_at_the_maximum_name_the_cells_that_are_still_wide() {
    let page = stopped(15, &["teacher.b1.n16"], &[]);
    let text = "Measuring stopped at the maximum: 17 of 18 cells reached this half-width. Still wider: teacher.b1.n16.";
    assert!(page.contains(text));
    assert!(!page.contains("so far") && !page.contains("Without an interval"));
}

#[test]
fn repeats_are_so_far_only_while_a_cell_is_wide_and_more_may_come() {
    let page = stopped(7, &["teacher.b1.n16", "teacher.b4.n16"], &["teacher.b16.n16"]);
    assert!(page.contains("After 7 repeats so far, 15 of 18 cells have reached this half-width."));
    assert!(page.contains("Still wider: teacher.b1.n16, teacher.b4.n16."));
    assert!(page.contains("fewer than two of their repeats are valid: teacher.b16.n16."));
}

#[test]
fn a_finished_run_names_its_failed_cell_apart_and_says_nothing_of_so_far() {
    let page = stopped(5, &[], &["teacher.b16.n16"]);
    assert!(page.contains("up to 15 repeats. 17 of 18 cells reached this half-width. Without an interval, because"));
    assert!(!page.contains("so far") && !page.contains("Still wider"));
}

#[test]
fn a_run_without_gpus_grows_no_empty_tables() {
    let report = rendered(&fixture::run(), &fixture::modelled(fixture::study()));
    for id in ["gpus", "sources", "phases", "domains", "estimator"] {
        assert!(!report.html.contains(&format!("id=\"table-{id}\"")), "{id}");
    }
    assert!(report.html.contains("id=\"table-windows\"") && !report.html.contains("order by_model"));
    assert!(!report.html.contains("Prefill and decode") && !report.markdown.contains("Prefill and decode"));
    let windows = table(&report.markdown, "The windows of each cell");
    for column in ["Residual", "Temperature", "SM clock", "Clock events", "Idle drift", "Others"] {
        assert!(!windows[0].contains(column), "{column}");
    }
}

#[test]
fn probes_are_in_no_headline_no_badge_and_no_result() {
    let report = rendered(&fixture::gpu_run(), &fixture::gpu_study());
    let html = plain(&report.html);
    assert!(html.contains("<dt>Valid trials</dt><dd>125 of 126</dd>"));
    let results = html.split("<table id=\"table-results\">").nth(1).unwrap().split("</table>").next().unwrap();
    assert_eq!(results.matches("<tr").count(), 1 + 18);
}
