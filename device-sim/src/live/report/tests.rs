use super::super::scenario::Faults;
use super::*;

/// A run with known values: each second `rate` payments that take 1 ms to `rate` ms, one of them refunded, every tenth
/// second an error.
fn run(seconds: u32, rate: u32) -> Measured {
    let mut measured = Measured::new(SystemTime::UNIX_EPOCH);
    for second in 0..seconds {
        for number in 0..rate {
            measured.payment_started();
            measured.record(Step::OrderToAccepted, 300 + u64::from(number));
            measured.record(Step::OrderToEnd, 1_000 * u64::from(number + 1));
            measured.ended(if number == 0 { End::Refunded } else { End::Delivered });
            measured.messages(2, 3);
        }
        if second % 10 == 0 {
            measured.error(ErrorKind::ConnectionLost);
        }
        measured.fault(Fault::Jam);
        measured.tick(second, u64::from(second % 7), Some(20_000));
    }
    measured
}

fn scenario(duration_s: u32) -> Scenario {
    let faults = Faults { jams_permille: 10, slow_readers: 1, ..Faults::default() };
    Scenario { title: "Synthetic".to_owned(), duration_s, ramp_s: 0, faults, ..Scenario::default() }
}

fn machine() -> Machine {
    let processor = "A processor & its friends".to_owned();
    Machine { processor, cores: 2, memory_kb: 8_123_456, kernel: "Linux 6".to_owned(), sync_us: Some(812) }
}

fn agreed() -> AuditVerdict {
    AuditVerdict { checked: vec![("accounts".to_owned(), 1_234)], differences: Vec::new() }
}

struct Texts {
    table: String,
    json: serde_json::Value,
    html: String,
    is_good: bool,
}

fn texts(scenario: &Scenario, measured: &Measured, verdict: &AuditVerdict) -> Texts {
    let machine = machine();
    let report = Report { scenario, measured, machine: &machine, verdict, stopped_early: false };
    let json = serde_json::from_str(&report.json().unwrap()).unwrap();
    let texts = Texts { table: report.table(), json, html: report.html(), is_good: report.is_good() };
    assert_well_formed(&texts.html);
    texts
}

/// Every tag is closed in its turn, every attribute quoted, every `&` a reference.
fn assert_well_formed(html: &str) {
    let mut open = Vec::new();
    let mut rest = html.strip_prefix("<!doctype html>").unwrap();
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "a bare > in {:?}", &rest[..at]);
        let end = at + rest[at..].find('>').unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {:?}", rest.get(..80));
            continue;
        }
        // Outside of the quotes an equals sign stands only before one.
        let outside: String = tag.split('"').step_by(2).collect::<Vec<_>>().join("\"");
        assert_eq!(outside.matches('=').count(), outside.matches("=\"").count(), "{tag}");
        let name = tag.split([' ', '/']).next().unwrap();
        if name == "style" {
            // Its text is no markup.
            rest = &rest[rest.find("</style>").unwrap()..];
        }
        if name != "meta" && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    for (at, _) in html.match_indices('&') {
        let references = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(references.iter().any(|one| html[at..].starts_with(one)), "{:?}", html.get(at..at + 10));
    }
}

#[test]
fn known_values_stand_in_the_table_the_json_and_the_page() {
    let texts = texts(&scenario(60), &run(60, 100), &agreed());
    for line in [
        "Payments       6,000 begun, 6,000 ended; 100.0/s at the full rate",
        "Started        1970-01-01 00:00:00 UTC",
        "order to end       6,000  50.0 ms  90.0 ms  99.0 ms  100 ms  100 ms",
        "delivered  5,940",
        "refunded   60",
        "the broker closed the connection  6\n",
        "jams  60",
        "Books agree",
        "accounts  1,234",
        "Nothing happened that the fault mix does not explain",
        "fdatasync p50  812 us",
    ] {
        assert!(texts.table.contains(line), "{line:?} is not in\n{}", texts.table);
    }
    assert!(texts.is_good);
    assert_eq!((&texts.json["good"], &texts.json["full_rate_per_10_s"]), (&true.into(), &1_000.into()));
    assert_eq!(texts.json["measured"]["ends"]["refunded"], 60);
    assert_eq!(texts.json["measured"]["seconds"].as_array().unwrap().len(), 60);
    assert_eq!(texts.json["scenario"]["faults"]["jams_permille"], 10);
    for part in [
        "<title>Synthetic: load test</title>",
        "Books agree",
        "1,234 accounts",
        "No unexplained error",
        "Payments per second",
        "Latency: order to end",
        "Latency by percentile",
        "Refunds and other ends",
        "Memory of the core",
        "99.9%",
        "<strong>100.0</strong>",
        "A processor &amp; its friends",
    ] {
        assert!(texts.html.contains(part), "{part:?} is not in the page");
    }
    // A step that never happened is nowhere.
    assert!(!texts.table.contains("PUBLISH to PUBACK") && !texts.html.contains("PUBLISH to PUBACK"));
}

#[test]
fn a_page_loads_nothing() {
    let html = texts(&scenario(60), &run(60, 100), &agreed()).html;
    for forbidden in ["http", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!html.contains(forbidden), "the page has {forbidden}");
    }
}

#[test]
fn what_comes_from_outside_is_escaped() {
    let title = "</title><script>alert('a & b')</script>".to_owned();
    let evil = Scenario { title, ..scenario(10) };
    let verdict = AuditVerdict {
        checked: vec![("<i>accounts".to_owned(), 1)],
        differences: vec!["<img src=x onerror=\"alert(1)\">\u{1b}[2J".to_owned()],
    };
    let html = texts(&evil, &run(10, 10), &verdict).html;
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<i>acc"));
    assert!(
        html.contains("&lt;/title&gt;&lt;script&gt;alert(&#39;a &amp; b&#39;)") && !html.contains('\u{1b}')
    );
}

#[test]
fn a_run_without_any_payment_has_a_report() {
    let mut idle = Measured::new(SystemTime::UNIX_EPOCH);
    let before = texts(&scenario(60), &idle, &agreed());
    assert!(before.html.contains("nothing to plot") && before.is_good);
    (0..60).for_each(|second| idle.tick(second, 0, None));
    let texts = texts(&scenario(60), &idle, &agreed());
    assert!(
        texts.table.contains("Ends: none") && texts.table.contains("0.0/s at the full rate"),
        "{}",
        texts.table
    );
    assert!(texts.html.contains("<p class=\"none\">None.</p>") && !texts.html.contains("NaN"));
}

#[test]
fn five_hours_are_as_readable_and_nearly_as_small_as_a_minute() {
    let long = texts(&scenario(18_000), &run(18_000, 3), &agreed());
    assert!(long.html.len() < 1_000_000, "{} bytes", long.html.len());
    assert!(long.html.contains("each point: 120 s, mean") && long.html.contains(">4:00:00</text>"));
    assert!(!long.html.contains("NaN") && !long.html.contains("inf"));
    assert_eq!(long.json["measured"]["seconds"].as_array().unwrap().len(), 18_000);
}

#[test]
fn a_lost_cent_an_unexplained_error_or_no_audit_at_all_is_not_good() {
    let faultless = Scenario { faults: Faults::default(), ..scenario(10) };
    let unexplained = texts(&faultless, &run(10, 10), &agreed());
    assert!(!unexplained.is_good);
    let expected = "Not explained by the fault mix: refunded (10), the broker closed the connection (1)";
    assert!(unexplained.table.contains(expected), "{}", unexplained.table);
    assert!(unexplained.html.contains("11 unexplained events"));

    let differences = (0..60).map(|number| format!("alice-{number} has 0.01 EUR too little")).collect();
    let lost = AuditVerdict { differences, ..agreed() };
    let lost = texts(&scenario(10), &run(10, 10), &lost);
    assert!(!lost.is_good && lost.json["books_agree"] == false);
    for text in [&lost.table, &lost.html] {
        assert!(text.contains("Books do not agree: 60 differences"));
        assert!(text.contains("alice-49 ") && !text.contains("alice-50 ") && text.contains("and 10 more"));
    }

    let nobody = texts(&scenario(10), &run(10, 10), &AuditVerdict::default());
    assert!(!nobody.is_good && nobody.table.contains("Books not compared"));
}

#[test]
fn files_are_written_and_the_percentile_file_counts_every_value() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("new");
    let (scenario, measured, machine, verdict) = (scenario(60), run(60, 100), machine(), agreed());
    let report = Report {
        scenario: &scenario,
        measured: &measured,
        machine: &machine,
        verdict: &verdict,
        stopped_early: true,
    };
    assert!(report.table().contains("Started        1970-01-01 00:00:00 UTC; stopped early"));
    let written = report.write(&directory).unwrap();
    let names: Vec<&str> = written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["report.html", "report.json", "order_to_accepted.hgrm", "order_to_end.hgrm"]);
    let hgrm = fs::read_to_string(directory.join("order_to_end.hgrm")).unwrap();
    let columns: Vec<Vec<&str>> = hgrm.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    let rows: Vec<_> = columns.iter().skip(2).take_while(|row| !row[0].starts_with("#[")).collect();
    assert_eq!(rows[0][1], "0.000000000000");
    let half = rows.iter().find(|row| row[1] == "0.500000000000").unwrap();
    assert!(half[0].starts_with("50.0") && half[3] == "2.00", "{half:?}");
    assert_eq!(rows.last().unwrap()[1..], ["1.000000000000", "6000"]);
    assert!(hgrm.contains("Total count    =         6000]"), "{hgrm}");

    let taken = folder.path().join("new").join("report.html");
    let error = report.write(&taken).unwrap_err().to_string();
    assert!(error.contains("report.html cannot be written"), "{error}");
}

#[test]
fn the_machine_is_known() {
    let machine = Machine::look(None);
    assert!(
        machine.cores > 0 && machine.memory_kb > 0 && machine.kernel.starts_with("Linux "),
        "{machine:?}"
    );
}

/// What is plotted adds up to what is counted: no end and no kind of error is in two groups or in none.
#[test]
fn every_end_and_every_error_has_its_colour() {
    let ends: Vec<End> = page::OTHER_ENDS.iter().flat_map(|(_, _, ends)| ends.iter().copied()).collect();
    for end in End::ALL {
        let is_success = matches!(end, End::Delivered | End::Settled);
        assert_eq!(ends.iter().filter(|one| *one == end).count(), usize::from(!is_success), "{end:?}");
    }
    let kinds: Vec<ErrorKind> = page::ERRORS.iter().flat_map(|(_, _, kinds)| kinds.iter().copied()).collect();
    for kind in ErrorKind::ALL {
        assert_eq!(kinds.iter().filter(|one| *one == kind).count(), 1, "{kind:?}");
    }
}
