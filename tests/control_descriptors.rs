//! A supervisor that has run out of descriptors still answers who asks why. In a process of its own: the limit is the
//! process's.
#![cfg(feature = "supervisor")]

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use zdsup::control::client::Client;
use zdsup::control::server::{self, Access, Command};

/// What the server keeps back.
const RESERVE: usize = 2;

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn answers_without_a_descriptor_left() {
    let directory = Directory(std::env::temp_dir().join(format!("zdsup-descriptors-{}", std::process::id())));
    std::fs::create_dir_all(&directory.0).unwrap();
    let socket = directory.0.join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (commands, mut received) = mpsc::channel(1);
    let access = Access { uid: nix::unistd::geteuid().as_raw(), ..Access::default() };
    let (_access, seen) = watch::channel(access);
    tokio::spawn(server::serve(listener, seen, commands));
    tokio::spawn(async move {
        while let Some(command) = received.recv().await {
            if let Command::Upgrades { reply } = command {
                let _ = reply.send(Vec::new());
            }
        }
    });
    let before = open_descriptors();
    Client::new(socket.clone()).upgrades().await.unwrap();
    retry(|| open_descriptors() == before + RESERVE).await;

    setrlimit(Resource::RLIMIT_NOFILE, 128, 128).unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    let all = hoard.len();
    for round in 0..20 {
        // One for the client's end; for the server's there is none but the reserve.
        drop(hoard.pop().unwrap());
        let mut client = Client::new(socket.clone());
        let answer = tokio::time::timeout(Duration::from_secs(30), client.upgrades()).await;
        assert_eq!(answer.expect("an answer").unwrap(), [], "round {round}");
        drop(client);
        retry(|| {
            hoard.extend(File::open("/dev/null"));
            hoard.len() == all && File::open("/dev/null").is_err()
        })
        .await;
    }
    drop(hoard);
    Client::new(socket).upgrades().await.unwrap();
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What a connection had is free once its tasks have run.
async fn retry(mut attempt: impl FnMut() -> bool) {
    let tries = async {
        while !attempt() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), tries).await.expect("descriptors are free again");
}
