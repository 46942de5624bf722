//! The client's side, where there is no server that behaves.

use super::*;
use crate::control::client::ClientError;
use crate::control::types::{Target, UpgradeRequest};
use crate::core::Kind;

#[tokio::test]
async fn nobody_listens() {
    let directory = Directory::new();
    let socket = directory.0.join("control.sock");
    let error = Client::new(socket.clone()).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
    // One that died and left its socket behind.
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::new(socket.clone()).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
    assert!(error.to_string().contains(socket.to_str().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_just_starting_is_waited_for() {
    let directory = Directory::new();
    let socket = directory.0.join("control.sock");
    let bound = UnixListener::bind(&socket).unwrap();
    drop(bound);
    let mut client = Client::new(socket.clone());
    let status = tokio::spawn(async move { client.status().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let (commands, received) = mpsc::channel(1);
    let (_access, seen) = watch::channel(Access { uid: 1000, ..Access::default() });
    let serving = tokio::spawn(server::serve_identified(listener, seen, commands, everybody));
    let answering = tokio::spawn(Loop::default().run(received));
    // The file may have been away at the wrong moment; but once it is there, it is found.
    match status.await.unwrap() {
        Ok(status) => assert_eq!(status.supervisor.pid, 1),
        Err(error) => assert!(matches!(error, ClientError::NotRunning(_)), "{error}"),
    }
    serving.abort();
    answering.abort();
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_is_waited_for() {
    let directory = Directory::new();
    let socket = directory.0.join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let first = connect(&socket).await;
    let full = UnixStream::connect(&socket).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let mut client = Client::new(socket.clone());
    let status = tokio::spawn(async move { client.status().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!status.is_finished(), "it is patient");
    let (commands, received) = mpsc::channel(1);
    let (_access, seen) = watch::channel(Access { uid: 1000, ..Access::default() });
    let listener = UnixListener::from_std(listener).unwrap();
    let serving = tokio::spawn(server::serve_identified(listener, seen, commands, everybody));
    let answering = tokio::spawn(Loop::default().run(received));
    assert_eq!(status.await.unwrap().unwrap().supervisor.pid, 1);
    drop(first);
    serving.abort();
    answering.abort();
}

#[tokio::test]
async fn a_connection_is_kept_and_a_closed_one_replaced() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.supervisor(), None);
    client.status().await.unwrap();
    assert_eq!(client.supervisor(), Some(crate::sys::Pid::own()));
    let request = UpgradeRequest { service: None, services: None, kind: Kind::Reload, atomic: None, to: None };
    assert_eq!(client.request(&request).await.unwrap().id, 7);
    // 409 keeps the connection, and is an error with its hint.
    let error = client.stop(&Target { service: Some("refused".into()) }).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.hint()), ("no", Some("try another")));
    assert_eq!(client.upgrades().await.unwrap().len(), 1);
    assert!(client.abort(&Target::default()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_meanwhile() {
    let server = Server::start();
    let mut client = server.client();
    for _ in 0..3 {
        client.stop(&Target::default()).await.unwrap();
        // Longer than the server keeps an idle one.
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    assert_eq!(server.fake.story().asked.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_gone_or_stuck() {
    let (commands, received) = mpsc::channel(16);
    let server = Server::answered_by(everybody, commands.clone());
    let stuck = server.client().status().await.unwrap_err();
    assert!(
        matches!(&stuck, ClientError::Rejected { status: 504, problem } if problem.error.contains("10 s")),
        "{stuck}"
    );
    assert!(stuck.hint().is_some_and(|hint| hint.contains("ask again")), "{stuck:?}");
    drop(received);
    let gone = server.client().status().await.unwrap_err();
    assert!(
        matches!(&gone, ClientError::Rejected { status: 503, problem } if problem.error.contains("ending")),
        "{gone}"
    );
}

#[tokio::test]
async fn what_is_no_supervisor() {
    let directory = Directory::new();
    let socket = directory.0.join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let other = tokio::spawn(async move {
        for answer in [
            "",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut errors = Vec::new();
    for _ in 0..4 {
        errors.push(Client::new(socket.clone()).status().await.unwrap_err());
    }
    assert!(matches!(errors[0], ClientError::Cut), "{errors:?}");
    assert!(matches!(errors[1], ClientError::Cut), "{errors:?}");
    assert!(matches!(errors[2], ClientError::NotUnderstood(_)), "{errors:?}");
    assert!(matches!(errors[3], ClientError::Rejected { status: 500, .. }), "{errors:?}");
    other.await.unwrap();
}
