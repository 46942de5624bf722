//! How many are served at once, and what becomes of the others.

use std::os::fd::BorrowedFd;

use tokio::task::JoinSet;

use super::loop_::UPGRADE;
use super::*;
use crate::control::server::{CONNECTIONS_MAX, STRANGERS_MAX, STREAMS_MAX};

#[tokio::test]
async fn three_hundred_at_once() {
    let server = Server::start();
    let mut clients = JoinSet::new();
    for _ in 0..300 {
        let mut client = server.client();
        clients.spawn(async move { client.status().await.unwrap().supervisor.pid });
    }
    assert!(clients.join_all().await.into_iter().all(|pid| pid == 1));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_too_many_waits_for_a_place() {
    let (commands, received) = mpsc::channel(16);
    let mut server = Server::answered_by(everybody, commands);
    let mut asking = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        asking.push(stream);
    }
    let (path, fake) = (server.socket.clone(), server.fake.clone());
    let mut late = Client::new(path);
    let request = late.status();
    tokio::pin!(request);
    let early = tokio::time::timeout(Duration::from_secs(1), &mut request).await;
    assert!(early.is_err(), "there is no place: {early:?}");
    server.tasks.push(tokio::spawn(fake.run(received)));
    tokio::time::timeout(Duration::from_secs(1), request).await.expect("there is a place now").unwrap();
    // Whoever had a whole request has kept its place.
    for mut stream in asking {
        assert_eq!(status_of(&read_to_end(&mut stream).await), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_nothing_makes_room() {
    let server = Server::start();
    let mut silent = Vec::new();
    let halves = [&b""[..], b"GET ", b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{"];
    for half in halves.iter().cycle().take(CONNECTIONS_MAX + 10) {
        let mut stream = server.connect().await;
        stream.write_all(half).await.unwrap();
        silent.push(stream);
    }
    let began = tokio::time::Instant::now();
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // Those that came first, and no more than are needed.
    assert_eq!(read_to_end(&mut silent[10]).await, "");
    assert_eq!(status_of(&read_to_end(&mut silent[13]).await), 408);
    assert_eq!(server.fake.story().asked, []);
}

#[tokio::test]
async fn streams_leave_places_for_requests() {
    let server = Server::start();
    server.fake.tell("one");
    let path = "/v1/upgrades/7/events";
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = server.connect().await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        read_until(&mut stream, "one").await;
        streams.push(stream);
    }
    let answer = server.request("GET", path, "").await;
    assert_eq!(status_of(&answer), 503);
    assert_eq!(header(&answer, "retry-after"), Some("1"));
    assert_eq!(status_of(&server.request("GET", "/v1/status", "").await), 200);
    let there_is = server.request("GET", &format!("{path}?follow=false"), "").await;
    assert_eq!(status_of(&there_is), 200);

    // A client that has no stream sees the whole story nevertheless.
    let mut client = server.client();
    let mut watch = client.watch(UPGRADE, 0);
    assert_eq!(watch.next().await.unwrap().unwrap().message, "one");
    server.fake.tell("two");
    assert_eq!(watch.next().await.unwrap().unwrap().message, "two");

    // One that goes makes room, without a word.
    drop(streams.pop());
    let opened = async {
        loop {
            let mut stream = server.connect().await;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").await;
            if status_of(&head) == 200 {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, opened).await.expect("the place of the one that went");
    server.fake.finish();
    assert!(watch.next().await.unwrap().unwrap().verdict.is_some());
    assert_eq!(watch.next().await.unwrap(), None);
    for mut stream in streams {
        assert!(read_to_end_of_stream(&mut stream).await.contains("the end"));
    }
}

fn stranger(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    somebody(2000, 2000)
}

#[tokio::test]
async fn strangers_do_not_take_everybodys_places() {
    let server = Server::with(stranger);
    let mut idle = Vec::new();
    for _ in 0..STRANGERS_MAX {
        idle.push(server.connect().await);
    }
    // One more is not even told why.
    assert_eq!(server.exchange(b"").await, "");
    drop(idle.pop());
    let told = async { while server.request("GET", "/v1/status", "").await.is_empty() {} };
    tokio::time::timeout(DEADLINE, told).await.expect("a place is free");
}

async fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(end) {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

async fn read_to_end_of_stream(stream: &mut UnixStream) -> String {
    read_until(stream, "\r\n0\r\n\r\n").await
}
