//! Plans of tools, and what they count.

use super::*;

fn meter(name: &str, from: &str, tools: &[&str], reserve: u64) -> ExtraMeter {
    ExtraMeter {
        name: name.parse().unwrap(),
        from: Source::parse(from).unwrap(),
        tools: tools.iter().map(|tool| Glob::parse(tool).unwrap()).collect(),
        reserve,
        cancelled: Cancelled::default(),
    }
}

fn metering(meters: Vec<ExtraMeter>, weights: &[(&str, u64)]) -> Metering {
    let weights = weights.iter().map(|(glob, weight)| (Glob::parse(glob).unwrap(), *weight));
    Metering::new(meters, weights.collect()).unwrap()
}

fn counted(plan: &Plan, outcome: Outcome, answer: &str) -> (Vec<(String, u64)>, Vec<&'static str>) {
    let measured = MeasuredCall {
        answer: Some((answer.as_bytes(), ResultAt::Answer)),
        bytes_in: 10,
        bytes_out: 20,
        duration: Duration::from_micros(2_001),
    };
    let (counted, problems) = plan.count(outcome, &measured);
    let counted = counted.into_iter().map(|(name, units)| (name.as_str().to_owned(), units.0));
    (counted.collect(), problems.iter().map(|(_, problem)| problem.as_str()).collect())
}

fn units(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(name, units)| ((*name).to_owned(), *units)).collect()
}

const TOKENS: &str = "/_meta/usage/tokens";
const ANSWER: &str =
    r#"{"id":1,"result":{"_meta":{"usage":{"tokens":70}},"structuredContent":{"pages":2}}}"#;

#[test]
fn without_settings_every_tool_counts_one_call_of_one_shared_plan() {
    let metering = Metering::default();
    assert!(metering.is_plain());
    assert!(Arc::ptr_eq(&metering.plan("any"), metering.plain()));
    let (found, _) = counted(metering.plain(), Outcome::Success, ANSWER);
    assert_eq!(found, units(&[("tool_calls", 1)]));
}

#[test]
fn a_tool_weighs_what_the_pattern_says_that_says_max() {
    let weights = [("*", 2), ("search*", 5), ("search_web", 7), ("list*", 0), ("a*", 3), ("*b", 3)];
    let metering = metering(vec![], &weights);
    for (tool, weight) in
        [("echo", 2), ("search", 5), ("search_web", 7), ("list_all", 0), ("ab", 3), ("", 2)]
    {
        let plan = metering.plan(tool);
        let expected: &[(&str, u64)] = if weight == 0 { &[] } else { &[("tool_calls", weight)] };
        assert_eq!(counted(&plan, Outcome::Success, ANSWER).0, units(expected), "{tool}");
        let needs: Vec<u64> = plan.needs.iter().map(|need| need.units).collect();
        assert_eq!(needs, if weight == 0 { vec![] } else { vec![weight] }, "{tool}");
    }
}

#[test]
fn every_source_is_measured_and_reserved() {
    let meters = vec![
        meter("in", "bytes_in", &[], 100),
        meter("tokens", TOKENS, &["ask*"], 500),
        meter("ms", "duration_ms", &[], 60_000),
        meter("pages", "/structuredContent/pages", &["ask*"], 3),
        meter("out", "bytes_out", &["other"], 9),
    ];
    let metering = metering(meters, &[]);
    let plan = metering.plan("ask_model");
    let expected = [("in", 10), ("ms", 3), ("pages", 2), ("tokens", 70), ("tool_calls", 1)];
    assert_eq!(counted(&plan, Outcome::Success, ANSWER), (units(&expected), vec![]));
    let needs: Vec<(&str, u64)> =
        plan.needs.iter().map(|need| (need.meter.as_str(), need.units)).collect();
    let expected = [("tool_calls", 1), ("in", 100), ("tokens", 500), ("ms", 60_000), ("pages", 3)];
    assert_eq!(needs, expected);
    let (found, _) = counted(&metering.plan("other"), Outcome::Success, ANSWER);
    assert_eq!(found, units(&[("in", 10), ("ms", 3), ("out", 20), ("tool_calls", 1)]));
}

#[test]
fn what_is_free_is_free_in_every_meter() {
    let metering = metering(vec![meter("tokens", TOKENS, &[], 5)], &[("*", 4)]);
    for outcome in [
        Outcome::ToolError,
        Outcome::ProtocolError,
        Outcome::InputRequired,
        Outcome::TaskCreated,
        Outcome::UpstreamError,
        Outcome::Timeout,
        Outcome::Cancelled,
    ] {
        assert_eq!(counted(&metering.plan("x"), outcome, ANSWER), (vec![], vec![]), "{outcome:?}");
    }
}

#[test]
fn what_cannot_be_read_counts_nothing_and_is_reported() {
    let metering = metering(vec![meter("tokens", TOKENS, &[], 5)], &[]);
    let plan = metering.plan("x");
    for (value, problem) in [
        ("-1", Some("negative")),
        ("1.5", Some("unclear")),
        ("\"7\"", Some("unclear")),
        ("18446744073709551616", Some("unclear")),
        ("1000000000001", Some("too_large")),
        ("null", Some("absent")),
        ("0", None),
    ] {
        let answer = format!(r#"{{"result":{{"_meta":{{"usage":{{"tokens":{value}}}}}}}}}"#);
        let (found, problems) = counted(&plan, Outcome::Success, &answer);
        assert_eq!(found, units(&[("tool_calls", 1)]), "{value}");
        assert_eq!(problems, problem.into_iter().collect::<Vec<_>>(), "{value}");
    }
    assert_eq!(counted(&plan, Outcome::Success, r#"{"result":{}}"#).1, ["absent"]);
}

#[test]
fn a_tasks_result_is_read_where_it_lies() {
    let metering = metering(vec![meter("tokens", TOKENS, &[], 5)], &[]);
    let result = r#"{"_meta":{"usage":{"tokens":4}}}"#;
    for (text, at) in [
        (format!(r#"{{"result":{{"status":"completed","result":{result}}}}}"#), ResultAt::Task),
        (format!(r#"{{"params":{{"status":"completed","result":{result}}}}}"#), ResultAt::Told),
    ] {
        let measured = MeasuredCall {
            answer: Some((text.as_bytes(), at)),
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
        };
        let (found, problems) = metering.plan("x").count(Outcome::Success, &measured);
        assert_eq!(found.get(&"tokens".parse().unwrap()), Some(&Quantity(4)));
        assert!(problems.is_empty());
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let tokens = || meter("tokens", TOKENS, &[], 5);
    let refused = |meters, weights| Metering::new(meters, weights).err();
    assert!(matches!(refused(vec![tokens(), tokens()], vec![]), Some(MeteringError::Twice(_))));
    let calls = meter("tool_calls", TOKENS, &[], 5);
    assert!(matches!(refused(vec![calls], vec![]), Some(MeteringError::Twice(_))));
    let none = ExtraMeter { reserve: 0, ..tokens() };
    assert!(matches!(refused(vec![none], vec![]), Some(MeteringError::Reserve(_))));
    let heavy = (Glob::parse("x").unwrap(), MAX_WEIGHT + 1);
    assert!(matches!(refused(vec![], vec![heavy]), Some(MeteringError::Weight(_))));
    assert_eq!(Source::parse("bytes"), None);
    assert_eq!(Source::parse("/a/~x"), None);
}
