//! The story of an upgrade, to clients that come late, leave, are cut off, or do not read.

use super::loop_::UPGRADE;
use super::*;
use crate::control::client::ClientError;
use crate::control::server::Command;

#[tokio::test]
async fn from_any_event_on() {
    let server = Server::start();
    for message in ["one", "two", "three"] {
        server.fake.tell(message);
    }
    server.fake.finish();
    for after in 0..=5 {
        let mut client = server.client();
        let mut watch = client.watch(UPGRADE, after);
        let mut seen = Vec::new();
        while let Some(event) = watch.next().await.unwrap() {
            seen.push(event.seq);
        }
        assert_eq!(seen, (after + 1..=4).collect::<Vec<_>>());
    }
    let answer = server.request("GET", "/v1/upgrades/7/events", "").await;
    assert_eq!(header(&answer, "content-type"), Some("application/x-ndjson"));
}

#[tokio::test]
async fn as_it_happens() {
    let server = Server::start();
    let mut client = server.client();
    let mut watch = client.watch(UPGRADE, 0);
    for number in 0..50 {
        server.fake.tell(&format!("{number}"));
        assert_eq!(watch.next().await.unwrap().unwrap().message, format!("{number}"));
    }
    server.fake.finish();
    assert!(watch.next().await.unwrap().unwrap().verdict.is_some());
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_nothing_is_asked() {
    let server = Server::start();
    server.fake.tell("one");
    let mut client = server.client();
    let mut watch = client.watch(UPGRADE, 0);
    watch.next().await.unwrap().unwrap();
    let pages = server.fake.story().pages;
    let idle = tokio::time::timeout(Duration::from_secs(24 * 3600), watch.next()).await;
    assert!(idle.is_err(), "a stream lives however long nothing happens: {idle:?}");
    assert_eq!(server.fake.story().pages, pages);
    server.fake.tell("two");
    assert_eq!(watch.next().await.unwrap().unwrap().message, "two");
    assert_eq!(server.fake.story().pages, pages + 1);
}

/// Lets `bytes` of each answer through, then cuts the connection.
async fn cutting(listener: UnixListener, target: PathBuf, bytes: usize) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = connect(&target).await;
        let (mut from_near, mut to_near) = near.split();
        let (from_far, mut to_far) = far.split();
        let mut some = from_far.take(bytes as u64);
        tokio::select! {
            _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
            _ = tokio::io::copy(&mut some, &mut to_near) => {}
        }
    }
}

#[tokio::test]
async fn cut_off_again_and_again() {
    let server = Server::start();
    for number in 1..=30 {
        server.fake.tell(&format!("event number {number}"));
    }
    server.fake.finish();
    let socket = server.socket.with_file_name("cutting.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let proxy = tokio::spawn(cutting(listener, server.socket.clone(), 700));
    let mut client = Client::new(socket);
    let mut watch = client.watch(UPGRADE, 0);
    let mut seen = Vec::new();
    while seen.len() < 31 {
        seen.push(watch.next().await.unwrap().expect("more").seq);
    }
    assert_eq!(seen, (1..=31).collect::<Vec<_>>());
    proxy.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_brings_nothing_is_given_up() {
    let server = Server::start();
    server.fake.tell("one");
    let socket = server.socket.with_file_name("cutting.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let proxy = tokio::spawn(cutting(listener, server.socket.clone(), 150));
    let mut client = Client::new(socket);
    let error = client.watch(UPGRADE, 0).next().await.unwrap_err();
    assert!(matches!(error, ClientError::Cut), "{error}");
    proxy.abort();
}

#[tokio::test]
async fn an_upgrade_that_nobody_knows() {
    let server = Server::start();
    let mut client = server.client();
    let error = client.watch(8, 0).next().await.unwrap_err();
    assert!(matches!(error, ClientError::Forgotten(8)), "{error}");
    let error = client.upgrade(8).await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected { status: 404, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_is_cut_off() {
    let server = Server::start();
    for _ in 0..400 {
        server.fake.tell(&"x".repeat(10_000));
    }
    server.fake.finish();
    let mut stream = server.connect().await;
    stream.write_all(b"GET /v1/upgrades/7/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(ended.is_err() || !answer.ends_with(b"\r\n0\r\n\r\n"), "cut off, not complete");
    assert!(answer.len() < 4_000_000, "{} bytes", answer.len());
}

#[tokio::test]
async fn a_loop_that_ends_leaves_the_story_open() {
    let (commands, mut received) = mpsc::channel(16);
    let server = Server::answered_by(everybody, commands);
    server.fake.tell("one");
    let mut stream = server.connect().await;
    stream.write_all(b"GET /v1/upgrades/7/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let Some(Command::Events { reply, .. }) = received.recv().await else { panic!("another command") };
    let (changes, changed) = watch::channel(0);
    let events = server.fake.story().events.clone();
    reply.send(Some(server::EventsPage { events, after: 0, finished: false, changed })).unwrap();
    drop((received, changes));
    let answer = read_to_end(&mut stream).await;
    assert!(answer.contains("one") && !answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
}
