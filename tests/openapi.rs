//! The OpenAPI document says what the code does: the same paths, the same fields, the same values.
#![cfg(feature = "supervisor")]

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zdsup::control::routes::ROUTES;
use zdsup::control::types::*;

fn document() -> Value {
    serde_json::from_str(include_str!("../src/control/openapi.json")).unwrap()
}

fn resolve<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#').unwrap();
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn schema<'a>(document: &'a Value, name: &str) -> &'a Value {
    resolve(document, &format!("#/components/schemas/{name}"))
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn strings(array: &Value) -> BTreeSet<&str> {
    array.as_array().map(|array| array.iter().map(|one| one.as_str().unwrap()).collect()).unwrap_or_default()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            described.insert((method.to_uppercase(), path.clone()));
            let in_path =
                operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "path"));
            assert_eq!(in_path, path.contains("{id}"), "{path}");
            assert_eq!(operation.get("requestBody").is_some(), method == "post", "{path}");
            for status in ["403", "503", "504"] {
                assert!(operation["responses"].get(status).is_some(), "{method} {path} {status}");
            }
        }
    }
    let served = ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(described, served);
}

#[test]
fn every_reference_leads_somewhere_and_nothing_is_superfluous() {
    fn collect<'a>(value: &'a Value, into: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(object) => {
                into.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| collect(value, into));
            }
            Value::Array(array) => array.iter().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
    let document = document();
    let mut used = BTreeSet::new();
    collect(&document, &mut used);
    for reference in &used {
        resolve(&document, reference);
    }
    for kind in ["schemas", "responses"] {
        for name in keys(&document["components"][kind]) {
            assert!(used.contains(format!("#/components/{kind}/{name}").as_str()), "{name} is not used");
        }
    }
}

/// Fails where a value is not what a schema says; nothing that is undescribed passes.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema.get("$ref") {
        return check(document, resolve(document, reference.as_str().unwrap()), value, place);
    }
    if let Some(choices) = schema.get("oneOf") {
        let choices = choices.as_array().unwrap();
        let null = choices.iter().any(|choice| choice["type"] == "null");
        assert!(null && choices.len() == 2, "{place}: only `or null` is used");
        if !value.is_null() {
            let other = choices.iter().find(|choice| choice["type"] != "null").unwrap();
            check(document, other, value, place);
        }
        return;
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        other => panic!("{place}: type {other}"),
    };
    let fits = match value {
        Value::Null => types.contains(&"null"),
        Value::Bool(_) => types.contains(&"boolean"),
        Value::Number(number) => types.contains(&"number") || (number.is_u64() && types.contains(&"integer")),
        Value::String(_) => types.contains(&"string"),
        Value::Array(_) => types.contains(&"array"),
        Value::Object(_) => types.contains(&"object"),
    };
    assert!(fits, "{place}: {value} is none of {types:?}");
    if let (Some(choices), Value::String(text)) = (schema.get("enum"), value) {
        assert!(strings(choices).contains(text.as_str()), "{place}: {text} is none of {choices}");
    }
    match value {
        Value::Array(items) => {
            items.iter().for_each(|item| check(document, &schema["items"], item, &format!("{place}[]")));
        }
        Value::Object(object) => {
            let (described, given) = (keys(&schema["properties"]), keys(value));
            assert!(given.is_subset(&described), "{place}: {given:?} in the code, {described:?} in the document");
            assert!(strings(&schema["required"]).is_subset(&given), "{place}: something required is missing");
            for (key, value) in object {
                check(document, &schema["properties"][key], value, &format!("{place}.{key}"));
            }
        }
        _ => {}
    }
}

fn may_be_null(schema: &Value) -> bool {
    let null = Value::from("null");
    schema["type"].as_array().is_some_and(|types| types.contains(&null))
        || schema["oneOf"].as_array().is_some_and(|choices| choices.iter().any(|choice| choice["type"] == null))
}

/// Compares a type with its schema, by a value that has everything and one that lacks all that can be lacking.
fn compare<T: Serialize>(seen: &mut BTreeSet<String>, full: &T, least: &T) {
    let name = std::any::type_name::<T>().rsplit("::").next().unwrap();
    seen.insert(name.to_owned());
    let document = document();
    let schema = schema(&document, name);
    let (full, least) = (serde_json::to_value(full).unwrap(), serde_json::to_value(least).unwrap());
    check(&document, schema, &full, name);
    check(&document, schema, &least, name);
    assert_eq!(keys(&full), keys(&schema["properties"]), "the fields of {name}");
    assert_eq!(keys(&least), strings(&schema["required"]), "the fields that {name} always has");
    for (key, property) in schema["properties"].as_object().unwrap() {
        assert!(!full[key].is_null(), "the example of {name} has no {key}");
        let lacking = least.get(key).is_none_or(Value::is_null);
        let optional = may_be_null(property) || property.get("default").is_some();
        assert_eq!(optional, lacking, "{name}.{key} can be null in one of code and document");
    }
}

#[test]
fn every_field_of_every_type_is_described() {
    let mut seen = BTreeSet::new();
    let verdict = VerdictStatus {
        verdict: Verdict::RolledBack,
        exit_code: 4,
        step: "soaking".into(),
        reason: Some("why".into()),
        hint: Some("what".into()),
        output: vec!["line".into()],
        output_elsewhere: Some("there".into()),
        because_of: Some(6),
        serving: Some(3),
    };
    let no_verdict = VerdictStatus {
        reason: None,
        hint: None,
        output: vec![],
        output_elsewhere: None,
        because_of: None,
        serving: None,
        ..verdict.clone()
    };
    compare(&mut seen, &verdict, &no_verdict);

    let figures = ProbeFigures { requests: 20, errors: 1, p50: 0.001, p99: 0.002 };
    compare(&mut seen, &figures, &figures);
    let errors = ProbeErrors { status: 1, ..ProbeErrors::default() };
    compare(&mut seen, &errors, &errors);
    let kernel = KernelFigures { queue: 3, overflows: 0, drops: 0, resets: 1 };
    compare(&mut seen, &kernel, &kernel);
    let probe =
        ProbeSummary { inside: figures.clone(), before: Some(figures), errors, kernel: Some(kernel), partial: true };
    compare(&mut seen, &probe, &ProbeSummary { before: None, kernel: None, ..probe.clone() });

    let upgrade = UpgradeStatus {
        id: 7,
        service: "web".into(),
        kind: Kind::Reload,
        requested_by: vec![0],
        step: "done".into(),
        generation: Some(4),
        from: Some(3),
        requested_at: 1.5,
        duration: 2.5,
        ended_at: Some(1.5),
        takes_back: Some(5),
        verdict: Some(verdict.clone()),
        drained: true,
        warnings: vec!["warning".into()],
        probe: Some(probe.clone()),
    };
    let no_upgrade = UpgradeStatus {
        generation: None,
        from: None,
        ended_at: None,
        takes_back: None,
        verdict: None,
        requested_by: vec![],
        warnings: vec![],
        probe: None,
        ..upgrade.clone()
    };
    compare(&mut seen, &upgrade, &no_upgrade);

    let instance = InstanceStatus {
        instance: "4.1".into(),
        state: InstanceState::Ready,
        pid: Some(1),
        age: 1.0,
        connections: Some(2),
        memory: Some(3),
        cpu: Some(0.5),
        health: InstanceHealth::Failing,
        health_failure: Some("connect: connection refused".into()),
        status: Some("fine".into()),
        remaining: Some(1.0),
        notes: vec!["note".into()],
    };
    let no_instance = InstanceStatus {
        pid: None,
        connections: None,
        memory: None,
        cpu: None,
        health_failure: None,
        status: None,
        remaining: None,
        notes: vec![],
        ..instance.clone()
    };
    compare(&mut seen, &instance, &no_instance);

    let generation = GenerationStatus {
        generation: 4,
        state: GenerationState::BackingOff,
        executable: "/bin/web".into(),
        weight: Some(100),
        desired: 3,
        ready: 2,
        standby: Some(1.0),
        remaining: Some(1.0),
        connections: Some(2),
        instances: vec![instance],
    };
    let no_generation = GenerationStatus {
        weight: None,
        standby: None,
        remaining: None,
        connections: None,
        instances: vec![],
        ..generation.clone()
    };
    compare(&mut seen, &generation, &no_generation);

    let kept = KeptStatus { generation: 3, executable: "/bin/web".into(), standby: Some(1.0) };
    compare(&mut seen, &kept, &KeptStatus { standby: None, ..kept.clone() });

    let listener = ListenerStatus {
        name: "http".into(),
        address: "0.0.0.0:80".into(),
        queue: Some(0),
        backlog: Some(1),
        origin: "bound".into(),
    };
    compare(&mut seen, &listener, &ListenerStatus { queue: None, backlog: None, ..listener.clone() });

    let last_output =
        LastOutput { instance: "4.1".into(), lines: vec!["line".into()], elsewhere: Some("there".into()) };
    compare(&mut seen, &last_output, &LastOutput { lines: vec![], elsewhere: None, ..last_output.clone() });

    let service = ServiceStatus {
        name: "web".into(),
        state: ServiceState::BackingOff,
        detail: Some("detail".into()),
        last_output: Some(last_output),
        serving: Some(4),
        upgrade: Some(upgrade.clone()),
        queued: vec![upgrade.clone()],
        last_upgrade: Some(upgrade),
        hook: Some("before-start of generation 5".into()),
        paused: Some(1.5),
        instances: 3,
        configured: Some(2),
        strategy: "canary".into(),
        traffic: "steered".into(),
        generations: vec![generation],
        kept: vec![kept],
        listeners: vec![listener],
        fd_store: 1,
        fd_store_max: 16,
    };
    let no_service = ServiceStatus {
        detail: None,
        last_output: None,
        serving: None,
        upgrade: None,
        queued: vec![],
        last_upgrade: None,
        hook: None,
        paused: None,
        configured: None,
        generations: vec![],
        kept: vec![],
        listeners: vec![],
        fd_store: 0,
        fd_store_max: 0,
        ..service.clone()
    };
    compare(&mut seen, &service, &no_service);

    let supervisor = SupervisorStatus {
        name: "web".into(),
        version: "1".into(),
        pid: 1,
        age: 1.0,
        memory: Some(1),
        config: Some("/x".into()),
        stopping: false,
        incarnation: 1,
        holding: Some("why".into()),
        lines_dropped: 0,
    };
    let no_supervisor = SupervisorStatus { memory: None, config: None, holding: None, ..supervisor.clone() };
    compare(&mut seen, &supervisor, &no_supervisor);
    let status = Status { supervisor, services: vec![service] };
    compare(&mut seen, &status, &status);

    let phase = PhaseRecord { name: "pinning".into(), start: 0.0, duration: 0.5 };
    compare(&mut seen, &phase, &phase);
    let record = UpgradeRecord {
        id: 7,
        service: "web".into(),
        kind: Kind::Reload,
        generation: Some(4),
        from: Some(3),
        release: Some("/bin/web".into()),
        argv: vec!["web".into()],
        directory: Some("/".into()),
        digest: Some("6c62272e07bb014262b821756295c58d".into()),
        requested_by: vec![0],
        takes_back: Some(2),
        at: 1.5,
        duration: 2.5,
        verdict: Verdict::RolledBack,
        reason: Some("why".into()),
        exit_code: 4,
        step: "soaking".into(),
        phases: vec![phase],
        rollback: Some(0.5),
        drain: Some(1.5),
        probe: Some(probe),
    };
    let no_record = UpgradeRecord {
        generation: None,
        from: None,
        release: None,
        directory: None,
        takes_back: None,
        digest: None,
        requested_by: vec![],
        reason: None,
        phases: vec![],
        rollback: None,
        drain: None,
        probe: None,
        ..record.clone()
    };
    compare(&mut seen, &record, &no_record);
    let page = HistoryPage { upgrades: vec![record], skipped: 0 };
    compare(&mut seen, &page, &HistoryPage { upgrades: vec![], ..page.clone() });
    let spread = Spread { count: 1, p50: Some(0.5), mean: Some(0.5), max: Some(0.5) };
    compare(&mut seen, &spread, &Spread::default());
    let kpi = Kpi {
        service: Some("web".into()),
        since: 60.0,
        deployments: 2,
        upgraded: 1,
        failed: 1,
        rolled_back: 0,
        aborted: 0,
        refused: 0,
        success_rate: Some(0.5),
        client_requests: 20,
        client_errors: 1,
        client_error_rate: Some(0.05),
        upgrade: spread.clone(),
        rollback: spread.clone(),
        drain: spread,
        skipped: 0,
    };
    let no_kpi = Kpi { service: None, success_rate: None, client_error_rate: None, ..kpi.clone() };
    compare(&mut seen, &kpi, &no_kpi);

    let event = UpgradeEvent {
        seq: 1,
        at: 1.0,
        elapsed: 1.0,
        upgrade: 7,
        service: "web".into(),
        event: "verdict".into(),
        message: "failed".into(),
        generation: Some(4),
        verdict: Some(Box::new(verdict)),
    };
    compare(&mut seen, &event, &UpgradeEvent { generation: None, verdict: None, ..event.clone() });
    let told = SupervisorEvent {
        seq: 1,
        at: 1.0,
        event: "verdict".into(),
        message: "failed".into(),
        service: Some("web".into()),
        generation: Some(4),
        upgrade: Some(7),
        verdict: event.verdict.clone(),
    };
    let least = SupervisorEvent { service: None, generation: None, upgrade: None, verdict: None, ..told.clone() };
    compare(&mut seen, &told, &least);

    let request = UpgradeRequest {
        service: Some("web".into()),
        services: Some(vec!["web".into()]),
        kind: Kind::Rollback,
        atomic: Some(true),
        to: Some(3),
    };
    compare(
        &mut seen,
        &request,
        &UpgradeRequest { service: None, services: None, atomic: None, to: None, ..request.clone() },
    );
    compare(&mut seen, &Promotion { service: Some("web".into()), full: true }, &Promotion::default());
    let scaling = Scaling { service: Some("web".into()), instances: 3 };
    compare(&mut seen, &scaling, &Scaling { service: None, ..scaling.clone() });
    let then = UpgradeThen { id: 2, service: "api".into() };
    compare(&mut seen, &then, &then);
    let accepted = UpgradeAccepted {
        id: 1,
        service: "web".into(),
        admission: AdmissionKind::Joined,
        then: vec![then],
        atomic: true,
        removes: vec!["old".into()],
        left_out: vec!["cron".into()],
    };
    compare(
        &mut seen,
        &accepted,
        &UpgradeAccepted { then: vec![], removes: vec![], left_out: vec![], ..accepted.clone() },
    );
    compare(&mut seen, &PauseRequest { service: Some("web".into()), max: Some(30.0) }, &PauseRequest::default());
    compare(&mut seen, &Target { service: Some("web".into()) }, &Target::default());
    compare(&mut seen, &Replacement { binary: Some("/usr/bin/zdsup".into()) }, &Replacement::default());
    let done = Done { message: "done".into() };
    compare(&mut seen, &done, &done);
    let problem = Problem { error: "no".into(), hint: Some("yes".into()) };
    compare(&mut seen, &problem, &Problem { hint: None, ..problem.clone() });

    let document = document();
    let objects =
        document["components"]["schemas"].as_object().unwrap().iter().filter(|(_, schema)| schema["type"] == "object");
    let objects: BTreeSet<String> = objects.map(|(name, _)| name.clone()).collect();
    assert_eq!(seen, objects, "types in the code, and in the document");
}

/// The variants of a unit-only enum, as serde names them when it meets another.
fn variants<T: DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
    let error = serde_json::from_str::<T>("\"no such variant\"").unwrap_err().to_string();
    let (_, expected) = error.split_once("expected one of").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_value_of_every_enumeration_is_described() {
    let code = BTreeMap::from([
        ("ServiceState", variants::<ServiceState>()),
        ("GenerationState", variants::<GenerationState>()),
        ("InstanceHealth", variants::<InstanceHealth>()),
        ("InstanceState", variants::<InstanceState>()),
        ("AdmissionKind", variants::<AdmissionKind>()),
        ("Verdict", variants::<Verdict>()),
        ("Kind", variants::<Kind>()),
    ]);
    let document = document();
    let named = document["components"]["schemas"].as_object().unwrap().iter().filter(|(_, one)| one["enum"].is_array());
    let described: BTreeMap<&str, BTreeSet<String>> = named
        .map(|(name, schema)| (name.as_str(), strings(&schema["enum"]).into_iter().map(str::to_owned).collect()))
        .collect();
    assert_eq!(code, described);
}

#[test]
fn what_requests_refuse_is_described() {
    let document = document();
    let mut unknown = Map::new();
    unknown.insert("unknown".into(), Value::Null);
    unknown.insert("kind".into(), "reload".into());
    let body = Value::Object(unknown);
    assert!(serde_json::from_value::<UpgradeRequest>(body.clone()).is_err());
    assert!(serde_json::from_value::<Target>(body.clone()).is_err());
    assert!(serde_json::from_value::<Promotion>(body.clone()).is_err());
    assert!(serde_json::from_value::<Scaling>(body).is_err());
    for name in ["UpgradeRequest", "Target", "Promotion", "Scaling"] {
        assert_eq!(schema(&document, name)["additionalProperties"], Value::Bool(false));
    }
}
