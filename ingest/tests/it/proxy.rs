//! A way to ClickHouse that breaks: every connection is cut after a random time, wherever it is in its work.
//!
//! What was passed on before the cut stays with the server, so a request may be whole there while its sender
//! never hears of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::{AbortHandle, JoinSet},
};

use crate::model::Random;

pub struct Proxy {
    address: String,
    accepting: AbortHandle,
    cuts: Arc<Mutex<u64>>,
}

impl Proxy {
    /// Passes connections on to `target` (`host:port`) and cuts each within `longest_ms`.
    pub async fn start(target: String, seed: u64, longest_ms: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&cuts);
        let accepting = tokio::spawn(async move {
            let mut random = Random::new(seed);
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let life = Duration::from_millis(2 + random.below(longest_ms));
                let (target, counted) = (target.clone(), Arc::clone(&counted));
                connections.spawn(async move {
                    if pass(client, &target, life).await {
                        *counted.lock().await += 1;
                    }
                });
            }
        })
        .abort_handle();
        Self { address, accepting, cuts }
    }

    /// `host:port` to connect to instead.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many connections were cut so far.
    pub async fn cuts(&self) -> u64 {
        *self.cuts.lock().await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes bytes both ways; `true` = it was cut.
async fn pass(mut client: TcpStream, target: &str, life: Duration) -> bool {
    let Ok(mut server) = TcpStream::connect(target).await else { return false };
    tokio::time::timeout(life, tokio::io::copy_bidirectional(&mut client, &mut server))
        .await
        .is_err()
}
