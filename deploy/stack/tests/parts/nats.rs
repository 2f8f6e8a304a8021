//! NATS: what was acknowledged survives a kill, and clients find the server again.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use stack::{Folder, Nats, NatsSettings, Part, SyncInterval};

use crate::runs;

const STREAM: &str = "TRY";

async fn stream(nats: &Nats) -> (jetstream::Context, stream::Stream) {
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = jetstream::new(client);
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["try.>".to_owned()],
        allow_atomic_publish: true,
        ..Default::default()
    };
    let stream = context.get_or_create_stream(config).await.unwrap();
    (context, stream)
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_kill_at_the_same_address() {
    let folder = Folder::temporary().unwrap();
    let mut nats = Nats::start(&folder).await.unwrap();
    let (url, first) = (nats.url(), nats.pid().unwrap());
    let (context, _) = stream(&nats).await;
    for number in 0..100 {
        let ack = context.publish("try.x", number.to_string().into()).await.unwrap().await.unwrap();
        assert_eq!(ack.sequence, number + 1);
    }
    nats.kill().await.unwrap();
    assert!(!runs(first) && nats.pid().is_none());
    nats.start_again().await.unwrap();
    assert_eq!(nats.url(), url);
    assert_ne!(nats.pid(), Some(first));
    let (_, stream) = stream(&nats).await;
    assert_eq!(stream.get_info().await.unwrap().state.messages, 100);
    let last = nats.pid().unwrap();
    nats.stop().await.unwrap();
    assert!(!runs(last));
}

#[tokio::test]
async fn a_client_that_stays_connected_goes_on_after_a_restart() {
    let folder = Folder::temporary().unwrap();
    let mut nats = Nats::start(&folder).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let mut messages = client.subscribe("ping").await.unwrap();
    nats.stop().await.unwrap();
    nats.start_again().await.unwrap();
    let heard = async {
        loop {
            client.publish("ping", "x".into()).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(100), messages.next()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.unwrap();
}

#[tokio::test]
async fn every_sync_setting_is_one_that_the_server_takes() {
    for sync in [SyncInterval::Always, SyncInterval::Every(Duration::from_millis(250))] {
        let folder = Folder::temporary().unwrap();
        let mut nats = Nats::start_with(&folder, NatsSettings { sync }).await.unwrap();
        let (context, _) = stream(&nats).await;
        context.publish("try.x", "x".into()).await.unwrap().await.unwrap();
        let client = async_nats::connect(nats.url()).await.unwrap();
        assert_eq!(client.server_info().max_payload, 8 * 1024 * 1024);
        nats.stop().await.unwrap();
    }
}
