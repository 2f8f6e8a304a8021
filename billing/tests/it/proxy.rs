//! A wire between billing and Stripe that a test can hold: a request before it arrives, or an answer on its way back.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
    task::JoinSet,
};

/// What happens to the requests that are watched; all else passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Nothing,
    /// The request does not arrive.
    Requests,
    /// It arrives and has its effect; the answer does not come back.
    Answers,
}

pub struct Proxy {
    pub address: SocketAddr,
    hold: watch::Sender<Hold>,
    /// How many requests or answers are held.
    pub held: watch::Receiver<u32>,
    wires: Arc<Mutex<JoinSet<()>>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A wire to `upstream` that watches requests beginning with `watched`, as `POST /v1/billing/meter_events `.
    pub async fn start(upstream: &str, watched: &'static str, hold: Hold) -> Self {
        let upstream: SocketAddr = upstream.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hold, held_by) = watch::channel(hold);
        let (count, held) = watch::channel(0);
        let wires: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let count = Arc::new(count);
        let all = Arc::clone(&wires);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(upstream).await.unwrap();
                all.lock().await.spawn(wire(
                    client,
                    server,
                    watched,
                    held_by.clone(),
                    Arc::clone(&count),
                ));
            }
        });
        Self { address, hold, held, wires, listener }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets everything go, what is held first.
    pub fn release(&self) {
        self.hold.send_replace(Hold::Nothing);
    }

    /// Cuts every wire, with whatever is held in it, and lets everything through from now on.
    pub async fn cut_and_release(&self) {
        self.wires.lock().await.shutdown().await;
        self.hold.send_replace(Hold::Nothing);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Carries one connection. A request is taken to come whole in one read: they are small and written at once.
async fn wire(
    mut client: TcpStream,
    mut server: TcpStream,
    watched: &'static str,
    mut hold: watch::Receiver<Hold>,
    held: Arc<watch::Sender<u32>>,
) {
    let (mut up, mut down) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut is_watched = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                is_watched = up[..length].starts_with(watched.as_bytes());
                if is_watched && *hold.borrow() == Hold::Requests {
                    held.send_modify(|held| *held += 1);
                    hold.wait_for(|hold| *hold == Hold::Nothing).await.unwrap();
                }
                if server.write_all(&up[..length]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if is_watched && *hold.borrow() == Hold::Answers {
                    held.send_modify(|held| *held += 1);
                    hold.wait_for(|hold| *hold == Hold::Nothing).await.unwrap();
                }
                if client.write_all(&down[..length]).await.is_err() { return }
            }
        }
    }
}
