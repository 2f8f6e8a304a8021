//! PostgreSQL: what was committed survives, the account and the password hold, data is kept.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sqlx::{Connection, PgConnection, Row};
use stack::{Folder, Part, Postgres, PostgresSettings};

use crate::{children, runs};

const QUICK: PostgresSettings = PostgresSettings { fsync: false };

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn setting(connection: &mut PgConnection, name: &str) -> String {
    let row = sqlx::query("select current_setting($1)").bind(name).fetch_one(connection).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn what_is_committed_survives_a_kill_of_the_server_and_its_busy_backends() {
    let folder = Folder::temporary().unwrap();
    let mut postgres = Postgres::start(&folder).await.unwrap();
    let url = postgres.create_database("ledger").await.unwrap();
    let mut connection = connect(&url).await;
    assert_eq!(setting(&mut connection, "fsync").await, "on");
    sqlx::raw_sql("create table t (n int); insert into t select generate_series(1, 1000)")
        .execute(&mut connection)
        .await
        .unwrap();
    let busy = tokio::spawn(async move {
        sqlx::raw_sql("select count(*) from generate_series(1, 1000000000000)")
            .execute(&mut connection)
            .await
    });
    let server = postgres.pid().unwrap();
    let mut watcher = connect(&url).await;
    let active = "select count(*) from pg_stat_activity where query like '%1000000000000)' and state = 'active'";
    while sqlx::query(active).fetch_one(&mut watcher).await.unwrap().get::<i64, _>(0) < 1 {
        tokio::task::yield_now().await;
    }
    let backends = children(server);
    assert!(backends.len() > 3, "{backends:?}");
    postgres.kill().await.unwrap();
    assert!(!runs(server));
    assert!(!backends.iter().any(|&pid| runs(pid)), "{backends:?}");
    busy.await.unwrap().unwrap_err();

    postgres.start_again().await.unwrap();
    assert_eq!(postgres.url("ledger"), url);
    let row = sqlx::query("select count(*) from t").fetch_one(&mut connect(&url).await).await;
    assert_eq!(row.unwrap().get::<i64, _>(0), 1000);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_clients_to_leave() {
    let folder = Folder::temporary().unwrap();
    let mut postgres = Postgres::start_with(&folder, QUICK).await.unwrap();
    let mut idle = connect(&postgres.url("postgres")).await;
    assert_eq!(setting(&mut idle, "fsync").await, "off");
    let pid = postgres.pid().unwrap();
    let before = std::time::Instant::now();
    postgres.stop().await.unwrap();
    assert!(before.elapsed().as_secs() < 5 && !runs(pid));
    let log = std::fs::read_to_string(folder.log("postgres")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}

#[tokio::test]
async fn a_kept_cluster_is_found_again_by_another_stack() {
    let base = tempfile::tempdir().unwrap();
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let path = base.path().join("kept");
    let first = Folder::named(&path).unwrap();
    let mut postgres = Postgres::start_with(&first, QUICK).await.unwrap();
    let url = postgres.create_database("kept").await.unwrap();
    let table = "create table t (n int)";
    sqlx::raw_sql(table).execute(&mut connect(&url).await).await.unwrap();
    postgres.stop().await.unwrap();
    drop((postgres, first));

    let second = Folder::named(&path).unwrap();
    let postgres = Postgres::start_with(&second, QUICK).await.unwrap();
    let url = postgres.create_database("kept").await.unwrap(); // It is there, and stays.
    sqlx::raw_sql("insert into t values (1)").execute(&mut connect(&url).await).await.unwrap();
}

#[tokio::test]
async fn a_stranger_without_the_password_gets_nothing() {
    let folder = Folder::temporary().unwrap();
    let postgres = Postgres::start_with(&folder, QUICK).await.unwrap();
    let url = postgres.url("postgres");
    let (before, after) = url.split_once('@').unwrap();
    let (user, _) = before.rsplit_once(':').unwrap();
    let error = PgConnection::connect(&format!("{user}:guess@{after}")).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("28P01"));
    let mode = |name: &str| {
        let path = folder.path().join("postgres").join(name);
        path.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("password")), (0o700, 0o600));
}

#[tokio::test]
async fn only_plain_names_become_databases() {
    let folder = Folder::temporary().unwrap();
    let postgres = Postgres::start_with(&folder, QUICK).await.unwrap();
    for name in ["", "1a", "a b", "a;drop database postgres", "A", "a-b", &"a".repeat(64)] {
        assert!(postgres.create_database(name).await.is_err(), "{name}");
    }
    postgres.create_database(&"a".repeat(63)).await.unwrap();
}

/// Root's server runs under another account, which cannot enter a closed folder; an ordinary user's
/// server runs as the user, who can.
#[tokio::test]
async fn a_folder_that_the_servers_account_cannot_enter_is_refused_with_advice() {
    let base = tempfile::tempdir().unwrap();
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let folder = Folder::named(&base.path().join("data")).unwrap();
    let started = Postgres::start_with(&folder, QUICK).await;
    let root =
        std::os::unix::fs::MetadataExt::uid(&Path::new("/proc/self").metadata().unwrap()) == 0;
    match started {
        Ok(_) => assert!(!root),
        Err(error) => assert!(root && error.report().contains("/var/lib"), "{}", error.report()),
    }
}
