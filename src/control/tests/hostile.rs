//! What no client should send.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::control::request::BODY_MAX;

#[tokio::test]
async fn a_body_that_is_too_large() {
    let server = Server::start();
    let declared = server.exchange(b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 65537\r\n\r\n").await;
    assert_eq!(status_of(&declared), 413);
    let mut chunked = b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=BODY_MAX / 4096 {
        chunked.extend(b"1000\r\n");
        chunked.extend([b' '; 4096]);
        chunked.extend(b"\r\n");
    }
    assert_eq!(status_of(&server.exchange(&chunked).await), 413);
    let largest = format!("{{}}{}", " ".repeat(BODY_MAX - 2));
    assert_eq!(status_of(&server.request("POST", "/v1/stop", &largest).await), 200);
    assert_eq!(server.fake.story().asked.len(), 1);
}

#[tokio::test]
async fn a_head_that_is_too_large() {
    let server = Server::start();
    let long = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(17 * 1024));
    assert_eq!(status_of(&server.exchange(long.as_bytes()).await), 431);
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(status_of(&server.exchange(many.as_bytes()).await), 431);
}

#[tokio::test]
async fn what_is_no_http() {
    let server = Server::start();
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], b"GET /v1/status HTTP/3.0\r\n\r\n", b"G\xffT / HTTP/1.1\r\n\r\n"] {
        assert_eq!(status_of(&server.exchange(bytes).await), 400);
    }
    let broken = b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    assert_eq!(status_of(&server.exchange(broken).await), 400);
    let both = b"POST /v1/stop HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}";
    assert_eq!(status_of(&server.exchange(both).await), 400);
    assert_eq!(server.fake.story().asked, []);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_slow() {
    let server = Server::start();
    let began = tokio::time::Instant::now();
    let answer = server.exchange(b"GET /v1/sta").await;
    assert_eq!(status_of(&answer), 408);
    assert_eq!(header(&answer, "content-length").unwrap().parse(), Ok(body_of(&answer).len()));
    assert!(serde_json::from_str::<crate::control::types::Problem>(body_of(&answer)).is_ok());
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles() {
    let server = Server::start();
    let mut stream = server.connect().await;
    let began = tokio::time::Instant::now();
    while stream.write_all(b"GET / HTTP/1.1\r\nx: y\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "each byte must not renew the deadline");
    }
    assert_eq!(status_of(&read_to_end(&mut stream).await), 408);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_slow() {
    let server = Server::start();
    let began = tokio::time::Instant::now();
    let answer = server.exchange(b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{}").await;
    assert_eq!(status_of(&answer), 408);
    assert!(began.elapsed() < Duration::from_secs(6));
    assert_eq!(server.fake.story().asked, []);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection() {
    let server = Server::start();
    let began = tokio::time::Instant::now();
    assert_eq!(server.exchange(b"").await, "");
    let kept = server.exchange(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(kept.matches("HTTP/1.1").count(), 1, "one answer, then silence");
    assert!(began.elapsed() < Duration::from_secs(12));
}

#[tokio::test]
async fn a_request_that_is_never_finished() {
    let server = Server::start();
    for part in [&b"GET /v1/status HT"[..], b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{}"] {
        let mut stream = server.connect().await;
        stream.write_all(part).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.is_empty() || status_of(&answer) == 400, "{answer}");
    }
    assert_eq!(server.fake.story().asked, []);
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
}

/// Bytes that look like requests here and there.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        3 => prop::sample::select(vec![
            "GET ", "POST ", "/v1/status", "/v1/upgrades", "/7/events", "?after=1", " HTTP/1.1\r\n", " HTTP/1.0\r\n",
            "\r\n", "\r\n\r\n", "host: x\r\n", "content-length: 2\r\n", "content-length: 99999999999\r\n",
            "transfer-encoding: chunked\r\n", "expect: 100-continue\r\n", "connection: upgrade\r\nupgrade: h2c\r\n", "{}",
            "2\r\n{}\r\n0\r\n\r\n", r#"{"kind":"reload"}"#, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn no_bytes_hang_or_end_the_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(async { Server::start() });
    server.fake.story().finished = true;
    let mut runner = TestRunner::new(Config { cases: 256, failure_persistence: None, ..Config::default() });
    let ended = runner.run(&bytes(), |bytes| {
        runtime.block_on(async {
            let mut stream = server.connect().await;
            // It may have had enough of it already.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            read_to_end(&mut stream).await;
            assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
        });
        Ok(())
    });
    runtime.block_on(async { drop(server) });
    ended.unwrap();
}
