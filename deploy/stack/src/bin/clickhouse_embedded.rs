//! `clickhouse-embedded`: one ClickHouse server from the shared library `libchdb.so`.
//!
//! The library holds the whole engine with the main function of `clickhouse-local`. A query that
//! first opens the real HTTP interface and then never ends makes a server of it; the query's end
//! is the server's end.
//!
//! Invariants: fd 0 is `/dev/null` before the engine looks at it (any other file would become a
//! table); the engine installs no signal handlers; SIGTERM and SIGINT end the query in an orderly
//! way. Absent on purpose: a death signal (whoever spawns this sets one, see `spawner.rs`), the
//! TCP interface, every setting that the configuration file can hold.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use libloading::Library;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The query that keeps the server open; `KILL QUERY` finds it by this id.
const HOLD_ID: &str = "launcher-hold";
/// Opens the HTTP interface, then sleeps for ever. Neither half needs more than the two grants
/// that the configuration gives to `default`, the user of the launcher's own connection.
const HOLD: &str = "SYSTEM START LISTEN HTTP; SELECT sleepEachRow(1) FROM system.numbers \
     SETTINGS max_block_size=1, function_sleep_max_microseconds_per_block=0, \
     max_execution_time=0, log_queries=0 FORMAT Null";

/// Whether a signal has asked for the end; without it, the end of the query is a failure.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

/// Serves an embedded ClickHouse on a loopback port until SIGTERM or SIGINT.
///
/// `TOLLBOOK_CLICKHOUSE_USER` and `TOLLBOOK_CLICKHOUSE_PASSWORD` name a user who may end queries.
#[derive(Parser)]
struct Args {
    /// The shared library libchdb.so.
    #[arg(long)]
    library: PathBuf,
    /// The data folder; absolute, since the engine joins a relative one to itself.
    #[arg(long)]
    path: PathBuf,
    /// The configuration file: users, memory, logs.
    #[arg(long)]
    config_file: PathBuf,
    /// The port of the HTTP interface on 127.0.0.1.
    #[arg(long)]
    http_port: u16,
    #[arg(long, env = "TOLLBOOK_CLICKHOUSE_USER", hide_env_values = true)]
    user: String,
    #[arg(long, env = "TOLLBOOK_CLICKHOUSE_PASSWORD", hide_env_values = true)]
    password: String,
}

fn main() {
    let code = match run(&Args::parse()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("clickhouse-embedded: {error}");
            1
        }
    };
    leave(code);
}

/// Ends this process without exit handlers: the engine's may hang or crash once its main function
/// has returned, and by then it has flushed everything.
fn leave(code: c_int) -> ! {
    #[allow(unsafe_code)]
    // SAFETY: `_exit` takes no pointers and runs no code of ours.
    unsafe {
        libc::_exit(code)
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if !args.path.is_absolute() {
        return Err(format!("--path must be absolute, not {}", args.path.display()).into());
    }
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    end_on_signal(args.http_port, args.user.clone(), args.password.clone())?;
    serve(args)
}

/// Runs the engine until its query ends.
fn serve(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut arguments = vec![CString::new("clickhouse")?];
    for (name, value) in [
        ("--path=", args.path.as_os_str().as_bytes()),
        ("--config-file=", args.config_file.as_os_str().as_bytes()),
        ("--listen_host=", b"127.0.0.1"),
        ("--http_port=", args.http_port.to_string().as_bytes()),
        ("--query_id=", HOLD_ID.as_bytes()),
        ("--query=", HOLD.as_bytes()),
    ] {
        arguments.push(CString::new([name.as_bytes(), value].concat())?);
    }
    let count = c_int::try_from(arguments.len())?;
    let mut pointers: Vec<*mut c_char> =
        arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut()); // C's `argv[argc]`.
    #[allow(unsafe_code)]
    // SAFETY: the library is the pinned one, whose C functions have these signatures; `arguments`
    // owns the strings behind `pointers`, and both outlive the call; the library is never closed.
    unsafe {
        let library = std::mem::ManuallyDrop::new(Library::new(&args.library)?);
        let handlers =
            library.get::<unsafe extern "C" fn(c_int)>("chdb_set_signal_handlers_enabled")?;
        handlers(0);
        let main = library.get::<unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void>(
            "chdb_query_cmdline",
        )?;
        let error = library
            .get::<unsafe extern "C" fn(*mut c_void) -> *const c_char>("chdb_result_error")?;
        let result = main(count, pointers.as_mut_ptr());
        if ASKED_TO_END.load(Ordering::SeqCst) {
            return Ok(()); // "Query was cancelled" is then no error.
        }
        let text = if result.is_null() { std::ptr::null() } else { error(result) };
        if text.is_null() {
            return Err("the engine has ended by itself; its reason is above".into());
        }
        Err(CStr::from_ptr(text).to_string_lossy().into())
    }
}

/// Waits for SIGTERM or SIGINT in a thread of its own, then ends the query that holds the server.
fn end_on_signal(port: u16, user: String, password: String) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let (mut terminate, mut interrupt): (Signal, Signal) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        });
        ASKED_TO_END.store(true, Ordering::SeqCst);
        if let Err(error) = end_hold(port, &user, &password) {
            // The engine survives a kill at any point, so an abrupt end is safe and a late one is not.
            eprintln!("clickhouse-embedded: cannot end the query that holds the server: {error}");
            leave(1);
        }
    });
    Ok(())
}

/// Ends the query that keeps the server open, also when it has yet to begin.
fn end_hold(port: u16, user: &str, password: &str) -> Result<(), Box<dyn Error>> {
    for _ in 0..100 {
        if kill_hold(port, user, password)?.contains(HOLD_ID) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("it is not there".into())
}

/// Asks the server, over its own HTTP interface, to end the query; answers with what it found.
fn kill_hold(port: u16, user: &str, password: &str) -> Result<String, Box<dyn Error>> {
    let query = format!("KILL QUERY WHERE query_id = '{HOLD_ID}' ASYNC");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nHost: 127.0.0.1\r\nX-ClickHouse-User: {user}\r\n\
         X-ClickHouse-Key: {password}\r\nContent-Length: {}\r\n\r\n{query}",
        query.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(answer.into()),
    }
}
