//! `ept-sweep diff`: two models of one run, or two runs, cell by cell.

use serde::Serialize;

use crate::analysis::diff::{self, Diff, Labels, Measured};
use crate::analysis::{
    AtFloor, Basis, CellComparison, Comparison, Estimate, ModelComparison, PairConditions, SideConditions, Undecided,
    Verdict,
};
use crate::cli::exit::Exit;
use crate::cli::{DiffArgs, Format};
use crate::commands::report::{Analysed, analyse};
use crate::error::{Context, Error, Result};
use crate::format;
use crate::record::{Decoding, Order};

/// Prints the comparison.
///
/// # Errors
/// There is no such run or model.
pub(super) fn diff(arguments: &DiffArgs) -> Result<Exit> {
    let runs: Vec<Analysed> = arguments.runs.iter().map(|root| analyse(root)).collect::<Result<_>>()?;
    let diff = compare(&runs, arguments)?;
    match arguments.format {
        Format::Json => {
            let view = View::new(&diff);
            println!("{}", serde_json::to_string_pretty(&view).context(|| "can't write the comparison as JSON")?);
        }
        Format::Text => print_text(&diff),
    }
    Ok(Exit::Done)
}

fn measured(analysed: &Analysed) -> Measured<'_> {
    Measured { run: &analysed.stored.info, frame: &analysed.frame, evaluations: &analysed.stored.evaluations }
}

fn compare(runs: &[Analysed], arguments: &DiffArgs) -> Result<Diff> {
    let floor = arguments.floor;
    match (runs, &arguments.base, &arguments.new) {
        ([run], Some(base), Some(new)) => diff::within_run(&measured(run), base, new, floor),
        ([run], _, _) => {
            let labels: Vec<&str> = run.stored.info.models.iter().map(|model| model.label.as_str()).collect();
            let hint = format!("add `--base LABEL --new LABEL`; models here: {}", labels.join(", "));
            Err(Error::input("which models of the run are to be compared?").with_hint(hint))
        }
        ([base_run, new_run], base, new) => {
            let labels = match (base, new) {
                (None, None) => Labels::Common,
                (Some(base), None) => Labels::Pair { base: base.clone(), new: base.clone() },
                (None, Some(new)) => Labels::Pair { base: new.clone(), new: new.clone() },
                (Some(base), Some(new)) => Labels::Pair { base: base.clone(), new: new.clone() },
            };
            diff::across_runs(&[measured(base_run)], &[measured(new_run)], &labels, floor)
        }
        _ => Err(Error::input("one or two directories are compared")),
    }
}

fn print_text(diff: &Diff) {
    println!("{}", basis(diff.basis));
    println!("decoding: {}", decoding(diff));
    println!(
        "\n{:<34} {:>5} {:>6}  {:<26} {:<26} {:<22} verdict",
        "new against base", "batch", "length", "base, per output token", "new, per output token", "saving"
    );
    for row in &diff.rows {
        print_row(row);
    }
    println!();
    for overall in &diff.overall {
        print_overall(overall);
    }
    print_floors(diff);
    for accuracy in &diff.accuracy {
        if let Some(difference) = &accuracy.exact_match {
            println!(
                "{} against {}, exact match at {} tokens: {}",
                accuracy.new,
                accuracy.base,
                accuracy.max_new_tokens,
                format::signed_points(difference)
            );
        }
    }
    print_conditions(diff);
    for cell in &diff.unmatched {
        println!("only on one side: {cell}");
    }
}

/// The saving at the energy floor beside the measured one, where the floors of both sides are known.
fn print_floors(diff: &Diff) {
    let rows = diff.rows.iter().map(|row| {
        (format!("{} {:>5} {:>6}", pair(row), row.batch_size, row.max_new_tokens), row.at_floor, &row.comparison)
    });
    let overall = diff.overall.iter().map(|overall| {
        let name = format!("{} against {}, over {}", overall.new, overall.base, format::plural(overall.cells, "cell"));
        (name, overall.at_floor, &overall.comparison)
    });
    let known: Vec<_> = rows.chain(overall).filter_map(|(name, at_floor, of)| Some((name, at_floor?, of))).collect();
    if known.is_empty() {
        return;
    }
    println!("\nsaving at the energy floor, and how many times the floor the engine uses, base and new");
    for (name, AtFloor { saving: at_floor, base_multiple, new_multiple }, measured) in known {
        println!(
            "{name:<47}  {} at the floor, {} as measured: {} and {}",
            format::share(at_floor),
            saving(measured),
            format::number(base_multiple, None),
            format::multiple(new_multiple)
        );
    }
}

/// What the two sides of each row ran under, where something of it was read.
fn print_conditions(diff: &Diff) {
    let rows: Vec<&CellComparison> = diff.rows.iter().filter(|row| row.conditions.is_known()).collect();
    if rows.is_empty() {
        return;
    }
    println!("\nconditions over the valid windows, base → new");
    for row in rows {
        let PairConditions { base, new, heat_share } = &row.conditions;
        let heat =
            heat_share.map(|share| format!("the temperature may explain {} of the ratio", format::change(share)));
        let all = [
            both(base.temperature_c, new.temperature_c, format::celsius_range),
            both(base.memory_temperature_c, new.memory_temperature_c, format::celsius_range)
                .map(|memory| format!("memory {memory}")),
            both(base.sm_clock_mhz, new.sm_clock_mhz, format::megahertz_range),
            both(base.power_cap, new.power_cap, format::fraction_range).map(|cap| format!("power cap {cap}")),
            both(base.power_limit_w, new.power_limit_w, format::watts_range).map(|limit| format!("limit {limit}")),
            heat,
        ];
        let all = all.into_iter().flatten().collect::<Vec<_>>().join(", ");
        println!("{:<34} {:>5} {:>6}  {all}", pair(row), row.batch_size, row.max_new_tokens);
    }
}

fn both(base: Option<f64>, new: Option<f64>, show: fn(f64, f64) -> String) -> Option<String> {
    Some(show(base?, new?))
}

fn pair(row: &CellComparison) -> String {
    format!("{} against {}", row.new, row.base)
}

/// One where both sides have the same.
fn decoding(diff: &Diff) -> String {
    let name = |decoding: Option<Decoding>| {
        decoding.map_or_else(|| format::UNKNOWN.to_owned(), |decoding| decoding.to_string())
    };
    match diff.base_decoding == diff.new_decoding {
        true => name(diff.base_decoding),
        false => format!("base {}, new {}", name(diff.base_decoding), name(diff.new_decoding)),
    }
}

fn basis(basis: Basis) -> String {
    match basis {
        Basis::WithinRun(Order::Blocks) => {
            "within one run: both models met in every block; intervals are 95 %".to_owned()
        }
        Basis::WithinRun(Order::ByModel) => {
            "within one run, in the order by_model: each model was loaded once and ran \
            at a time of its own, and what differs between those is in the difference, so that there is no verdict; \
            intervals are 95 %, from the repeats alone"
                .to_owned()
        }
        Basis::AcrossRuns { base_runs, new_runs } => format!(
            "across runs ({base_runs} against {new_runs}): what differs between runs is in the difference, and one \
             run a side gives no verdict; intervals are those within the runs"
        ),
    }
}

fn print_row(row: &CellComparison) {
    let energy =
        |estimate: &Option<Estimate>| estimate.as_ref().map_or_else(|| format::UNKNOWN.to_owned(), format::energy);
    println!(
        "{:<34} {:>5} {:>6}  {:<26} {:<26} {:<22} {}",
        pair(row),
        row.batch_size,
        row.max_new_tokens,
        energy(&row.base_ept_out_j),
        energy(&row.new_ept_out_j),
        saving(&row.comparison),
        verdict(&row.comparison, row.undecided)
    );
}

fn print_overall(overall: &ModelComparison) {
    println!(
        "{} against {}, over {}: saving {}, {}",
        overall.new,
        overall.base,
        format::plural(overall.cells, "cell"),
        saving(&overall.comparison),
        verdict(&overall.comparison, overall.undecided)
    );
}

fn saving(comparison: &Comparison) -> String {
    comparison.saving.as_ref().map_or_else(|| format::UNKNOWN.to_owned(), format::percent)
}

fn verdict(comparison: &Comparison, undecided: Option<Undecided>) -> String {
    let verdict = comparison.verdict.words();
    match undecided.map(Undecided::words) {
        Some(why) if comparison.verdict == Verdict::Inconclusive => format!("{verdict} ({why})"),
        _ => verdict.to_owned(),
    }
}

/// The comparison for programs: bare numbers, `null` where unknown.
#[derive(Serialize)]
struct View<'a> {
    basis: &'static str,
    base_decoding: Option<Decoding>,
    new_decoding: Option<Decoding>,
    rows: Vec<RowView<'a>>,
    overall: Vec<OverallView<'a>>,
    accuracy: Vec<AccuracyView<'a>>,
    unmatched: &'a [String],
}

#[derive(Serialize)]
struct RowView<'a> {
    base: &'a str,
    new: &'a str,
    batch_size: usize,
    max_new_tokens: usize,
    base_ept_out_j: Option<EstimateView>,
    new_ept_out_j: Option<EstimateView>,
    #[serde(flatten)]
    comparison: ComparisonView,
    at_floor: Option<AtFloorView>,
    conditions: ConditionsView,
}

/// At the energy floors of both sides; `null` where one isn't known.
#[derive(Serialize)]
struct AtFloorView {
    saving: f64,
    base_multiple: f64,
    new_multiple: f64,
}

impl AtFloorView {
    fn of(at_floor: AtFloor) -> Self {
        let AtFloor { saving, base_multiple, new_multiple } = at_floor;
        Self { saving, base_multiple, new_multiple }
    }
}

/// Means over the valid windows of each side. `heat_share` is a share of the ratio, as `saving` is.
#[derive(Serialize)]
struct ConditionsView {
    base: SideView,
    new: SideView,
    heat_share: Option<f64>,
}

#[derive(Serialize)]
struct SideView {
    temperature_c: Option<f64>,
    memory_temperature_c: Option<f64>,
    sm_clock_mhz: Option<f64>,
    power_cap: Option<f64>,
    power_limit_w: Option<f64>,
}

#[derive(Serialize)]
struct OverallView<'a> {
    base: &'a str,
    new: &'a str,
    cells: usize,
    #[serde(flatten)]
    comparison: ComparisonView,
    at_floor: Option<AtFloorView>,
}

#[derive(Serialize)]
struct AccuracyView<'a> {
    base: &'a str,
    new: &'a str,
    max_new_tokens: usize,
    exact_match_difference: Option<EstimateView>,
    rouge_l_difference: Option<EstimateView>,
}

#[derive(Serialize)]
struct ComparisonView {
    ratio: Option<EstimateView>,
    saving: Option<EstimateView>,
    saved_j_per_token: Option<EstimateView>,
    p_adjusted: Option<f64>,
    verdict: &'static str,
    undecided: Option<&'static str>,
}

#[derive(Serialize)]
struct EstimateView {
    value: f64,
    low: Option<f64>,
    high: Option<f64>,
    n: usize,
}

impl EstimateView {
    fn of(estimate: Option<Estimate>) -> Option<Self> {
        estimate.map(|Estimate { value, interval, n }| Self {
            value,
            low: interval.map(|interval| interval.low),
            high: interval.map(|interval| interval.high),
            n,
        })
    }
}

impl ComparisonView {
    fn of(comparison: &Comparison, undecided: Option<Undecided>) -> Self {
        Self {
            ratio: EstimateView::of(comparison.ratio),
            saving: EstimateView::of(comparison.saving),
            saved_j_per_token: EstimateView::of(comparison.saved_j_per_token),
            p_adjusted: comparison.p_adjusted,
            verdict: comparison.verdict.code(),
            undecided: undecided.map(Undecided::code),
        }
    }
}

impl<'a> View<'a> {
    fn new(diff: &'a Diff) -> Self {
        Self {
            basis: match diff.basis {
                Basis::WithinRun(_) => "within_run",
                Basis::AcrossRuns { .. } => "across_runs",
            },
            base_decoding: diff.base_decoding,
            new_decoding: diff.new_decoding,
            rows: diff.rows.iter().map(RowView::of).collect(),
            overall: diff.overall.iter().map(OverallView::of).collect(),
            accuracy: diff
                .accuracy
                .iter()
                .map(|accuracy| AccuracyView {
                    base: &accuracy.base,
                    new: &accuracy.new,
                    max_new_tokens: accuracy.max_new_tokens,
                    exact_match_difference: EstimateView::of(accuracy.exact_match),
                    rouge_l_difference: EstimateView::of(accuracy.rouge_l),
                })
                .collect(),
            unmatched: &diff.unmatched,
        }
    }
}

impl<'a> RowView<'a> {
    fn of(row: &'a CellComparison) -> Self {
        Self {
            base: &row.base,
            new: &row.new,
            batch_size: row.batch_size,
            max_new_tokens: row.max_new_tokens,
            base_ept_out_j: EstimateView::of(row.base_ept_out_j),
            new_ept_out_j: EstimateView::of(row.new_ept_out_j),
            comparison: ComparisonView::of(&row.comparison, row.undecided),
            at_floor: row.at_floor.map(AtFloorView::of),
            conditions: ConditionsView::of(&row.conditions),
        }
    }
}

impl ConditionsView {
    fn of(conditions: &PairConditions) -> Self {
        let side = |of: &SideConditions| SideView {
            temperature_c: of.temperature_c,
            memory_temperature_c: of.memory_temperature_c,
            sm_clock_mhz: of.sm_clock_mhz,
            power_cap: of.power_cap,
            power_limit_w: of.power_limit_w,
        };
        Self { base: side(&conditions.base), new: side(&conditions.new), heat_share: conditions.heat_share }
    }
}

impl<'a> OverallView<'a> {
    fn of(overall: &'a ModelComparison) -> Self {
        Self {
            base: &overall.base,
            new: &overall.new,
            cells: overall.cells,
            comparison: ComparisonView::of(&overall.comparison, overall.undecided),
            at_floor: overall.at_floor.map(AtFloorView::of),
        }
    }
}
