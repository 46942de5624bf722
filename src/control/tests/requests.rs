//! Every status code that a well-formed request can get.

use std::os::fd::BorrowedFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::loop_::UPGRADE;
use super::*;
use crate::control::types::{Problem, Status, UpgradeAccepted};

#[tokio::test]
async fn what_is_asked_is_answered() {
    let server = Server::start();
    server.fake.finish();
    for (method, path, body, expected) in [
        ("GET", "/v1/status", "", 200),
        ("POST", "/v1/upgrades", r#"{"kind":"reload"}"#, 202),
        ("GET", "/v1/upgrades", "", 200),
        ("GET", "/v1/upgrades/7", "", 200),
        ("GET", "/v1/upgrades/7/events", "", 200),
        ("GET", "/v1/upgrades/7/events?after=1&follow=false", "", 200),
        ("POST", "/v1/abort", "", 200),
        ("POST", "/v1/abort", r#"{"service":"web"}"#, 200),
        ("POST", "/v1/stop", "{}", 200),
        ("POST", "/v1/pause", r#"{"service":"web","max":0.5}"#, 200),
        ("POST", "/v1/resume", "", 200),
        ("POST", "/v1/upgrades", r#"{"kind":"rollback","to":3}"#, 202),
        ("POST", "/v1/promote", "", 200),
        ("POST", "/v1/promote", r#"{"service":"web","full":true}"#, 200),
        ("POST", "/v1/scale", r#"{"instances":3}"#, 200),
        ("GET", "/v1/openapi.json", "", 200),
        ("GET", "/v1/upgrades/8", "", 404),
        ("GET", "/v1/upgrades/8/events", "", 404),
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/", "", 404),
        ("OPTIONS", "*", "", 404),
        ("DELETE", "/v1/upgrades/7", "", 405),
        ("POST", "/v1/status", "{}", 405),
        ("HEAD", "/v1/status", "", 405),
        ("GET", "/v1/status?verbose=1", "", 400),
        ("GET", "/v1/upgrades/7/events?after=x", "", 400),
        ("POST", "/v1/upgrades", "", 400),
        ("POST", "/v1/upgrades", "{", 400),
        ("POST", "/v1/upgrades", r#"{"kind":"start"}"#, 400),
        ("POST", "/v1/upgrades", r#"{"kind":"reload","force":true}"#, 400),
        ("POST", "/v1/upgrades", r#"{"kind":"reload","service":"invalid"}"#, 400),
        ("POST", "/v1/upgrades", r#"{"kind":"reload","service":"unknown"}"#, 404),
        ("POST", "/v1/upgrades", r#"{"kind":"reload","service":"refused"}"#, 409),
        ("POST", "/v1/upgrades", r#"{"kind":"reload","service":"unavailable"}"#, 503),
        ("POST", "/v1/abort", r#"{"service":"refused"}"#, 409),
        ("POST", "/v1/stop", r#"{"service":"unknown"}"#, 404),
        ("POST", "/v1/promote", r#"{"service":"refused"}"#, 409),
        ("POST", "/v1/promote", r#"{"full":"yes"}"#, 400),
        ("POST", "/v1/scale", "", 400),
        ("POST", "/v1/scale", r#"{"instances":0}"#, 400),
        ("POST", "/v1/scale", r#"{"service":"unknown","instances":3}"#, 404),
        ("GET", "/v1/scale", "", 405),
        ("POST", "/v1/stop", r#"["web"]"#, 400),
        ("POST", "/v1/pause", r#"{"service":"refused"}"#, 409),
        ("POST", "/v1/pause", r#"{"max":"30s"}"#, 400),
        ("POST", "/v1/resume", r#"{"max":1}"#, 400),
    ] {
        let answer = server.request(method, path, body).await;
        assert_eq!(status_of(&answer), expected, "{method} {path} {body}: {answer}");
        if expected >= 400 && method != "HEAD" {
            let problem: Problem = serde_json::from_str(body_of(&answer)).unwrap();
            assert!(!problem.error.is_empty());
        }
    }
}

#[tokio::test]
async fn answers_say_what_they_are() {
    let server = Server::start();
    let answer = server.request("GET", "/v1/status", "").await;
    assert_eq!(header(&answer, "content-type"), Some("application/json"));
    let status: Status = serde_json::from_str(body_of(&answer)).unwrap();
    assert_eq!(status.supervisor.name, "web");

    let answer = server.request("POST", "/v1/upgrades", r#"{"kind":"restart","service":"web"}"#).await;
    assert_eq!(header(&answer, "location"), Some("/v1/upgrades/7"));
    let accepted: UpgradeAccepted = serde_json::from_str(body_of(&answer)).unwrap();
    assert_eq!(accepted.id, UPGRADE);
    assert_eq!(server.fake.story().asked, [(1000, "restart Some(\"web\")".to_owned())]);

    assert_eq!(header(&server.request("PUT", "/v1/upgrades", "").await, "allow"), Some("POST, GET"));
    let answer = server.request("POST", "/v1/abort", r#"{"service":"refused"}"#).await;
    let problem: Problem = serde_json::from_str(body_of(&answer)).unwrap();
    assert_eq!(problem, Problem { error: "no".into(), hint: Some("try another".into()) });

    let served = server.request("GET", "/v1/openapi.json", "").await;
    assert_eq!(body_of(&served), include_str!("../openapi.json"));
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = Server::start();
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /v1/upgrades HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}]\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
}

fn operator(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    somebody(2000, 50)
}

fn viewer(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    somebody(2000, 60)
}

fn stranger(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    somebody(2000, 2000)
}

fn nobody(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    Err(io::ErrorKind::NotConnected.into())
}

#[tokio::test]
async fn operators_operate() {
    let server = Server::with(operator);
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
    assert_eq!(status_of(&server.request("POST", "/v1/stop", "").await), 200);
    assert_eq!(server.fake.story().asked, [(2000, "None".to_owned())]);
}

#[tokio::test]
async fn viewers_look() {
    let server = Server::with(viewer);
    for path in ["/v1/status", "/v1/upgrades", "/v1/upgrades/7", "/v1/openapi.json"] {
        assert_eq!(status_of(&server.request("GET", path, "").await), 200, "{path}");
    }
    for path in ["/v1/upgrades", "/v1/abort", "/v1/stop"] {
        let answer = server.request("POST", path, r#"{"kind":"reload"}"#).await;
        assert_eq!(status_of(&answer), 403, "{path}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    }
    assert_eq!(server.fake.story().asked, []);
}

#[tokio::test]
async fn strangers_get_nothing() {
    let server = Server::with(stranger);
    for (method, path) in [("GET", "/v1/status"), ("POST", "/v1/stop"), ("GET", "/v1/openapi.json"), ("GET", "/no")] {
        // Not even with a connection that would be kept.
        let answer = server.exchange(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(status_of(&answer), 403, "{method} {path}");
        assert_eq!(header(&answer, "connection"), Some("close"));
        let problem: Problem = serde_json::from_str(body_of(&answer)).unwrap();
        assert!(problem.error.contains("user 2000"), "{problem:?}");
    }
    assert_eq!(server.fake.story().asked, []);
}

#[tokio::test]
async fn permission_follows_the_config() {
    let server = Server::with(stranger);
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 403);
    server.access.send_modify(|access| access.viewers.push(2000));
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
}

#[tokio::test]
async fn without_credentials_there_is_no_answer() {
    let server = Server::with(nobody);
    assert_eq!(server.request("GET", "/v1/status", "").await, "");
}

#[tokio::test]
async fn real_credentials_let_the_own_user_in() {
    let mut server = Server::with(crate::sys::peer::credentials);
    server.access.send_modify(|access| access.uid = nix::unistd::geteuid().as_raw());
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
    server.tasks.clear();
}
