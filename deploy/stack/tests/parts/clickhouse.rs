//! ClickHouse: what was inserted survives a kill, and strangers may do nothing.

use stack::{ClickHouse, Folder, Part};

use crate::runs;

#[tokio::test]
async fn what_is_inserted_survives_a_kill_at_the_same_address() {
    let folder = Folder::temporary().unwrap();
    let mut clickhouse = ClickHouse::start(&folder).await.unwrap();
    let (url, first) = (clickhouse.url().to_owned(), clickhouse.pid().unwrap());
    for statement in [
        "CREATE DATABASE meter",
        "CREATE TABLE meter.t (n UInt64) ENGINE = MergeTree ORDER BY n",
        "INSERT INTO meter.t SELECT number FROM numbers(1000)",
    ] {
        clickhouse.query(statement).await.unwrap();
    }
    clickhouse.kill().await.unwrap();
    assert!(!runs(first));
    clickhouse.start_again().await.unwrap();
    assert_eq!(clickhouse.url(), url);
    assert_eq!(
        clickhouse.query("SELECT count(), sum(n) FROM meter.t").await.unwrap(),
        "1000\t499500"
    );
    clickhouse.stop().await.unwrap();
    clickhouse.start_again().await.unwrap();
    assert_eq!(clickhouse.query("SELECT count() FROM meter.t").await.unwrap(), "1000");
    assert_eq!(clickhouse.version(), clickhouse.query("SELECT version()").await.unwrap());
}

#[tokio::test]
async fn a_stop_is_orderly() {
    let folder = Folder::temporary().unwrap();
    let mut clickhouse = ClickHouse::start(&folder).await.unwrap();
    let pid = clickhouse.pid().unwrap();
    let before = std::time::Instant::now();
    clickhouse.stop().await.unwrap();
    assert!(!runs(pid));
    // SIGKILL would come after 20 s; a launcher that cannot end its query says so.
    assert!(before.elapsed().as_secs() < 15, "{:?}", before.elapsed());
    let log = std::fs::read_to_string(folder.log("clickhouse")).unwrap();
    assert!(!log.contains("cannot end the query"), "{log}");
}

#[tokio::test]
async fn the_user_without_a_password_may_do_nothing() {
    let folder = Folder::temporary().unwrap();
    let clickhouse = ClickHouse::start(&folder).await.unwrap();
    clickhouse
        .query("CREATE TABLE default.secret (n UInt8) ENGINE = MergeTree ORDER BY n")
        .await
        .unwrap();
    for statement in [
        "SELECT * FROM default.secret",
        "SELECT * FROM file('/etc/passwd', LineAsString)",
        "CREATE TABLE default.mine (n UInt8) ENGINE = Memory",
        "SELECT * FROM url('http://127.0.0.1:1/', LineAsString)",
        "KILL QUERY WHERE 1 ASYNC",
    ] {
        let url = format!("{}/?user=default", clickhouse.url());
        let (status, text) = post(&url, statement).await;
        assert!(status >= 400 && text.contains("ACCESS_DENIED"), "{statement}: {status} {text}");
    }
    let (status, _) =
        post(&format!("{}/?user=tollbook&password=guess", clickhouse.url()), "SELECT 1").await;
    assert!((400..500).contains(&status), "{status}");
}

#[tokio::test]
async fn merges_and_mutations_run_in_the_small_pools() {
    let folder = Folder::temporary().unwrap();
    let clickhouse = ClickHouse::start(&folder).await.unwrap();
    for statement in [
        "CREATE TABLE default.t (n UInt64) ENGINE = MergeTree ORDER BY n",
        "INSERT INTO default.t VALUES (1)",
        "INSERT INTO default.t VALUES (2)",
        "OPTIMIZE TABLE default.t FINAL",
        "ALTER TABLE default.t DELETE WHERE n = 1 SETTINGS mutations_sync = 2",
    ] {
        clickhouse.query(statement).await.unwrap();
    }
    assert_eq!(clickhouse.query("SELECT n FROM default.t").await.unwrap(), "2");
}

/// A statement without the headers that [`ClickHouse::query`] sends.
async fn post(url: &str, statement: &str) -> (u16, String) {
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;

    let uri: http::Uri = url.parse().unwrap();
    let stream = tokio::net::TcpStream::connect(uri.authority().unwrap().as_str()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(uri.path_and_query().unwrap().as_str())
        .header("host", "localhost")
        .body(Full::new(bytes::Bytes::from(statement.to_owned())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
