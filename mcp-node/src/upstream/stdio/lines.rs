//! A child's three pipes, line by line.

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::mpsc,
};

use crate::upstream::duplex::Session;

/// The longest line of a child's log that is kept whole. Unit: bytes.
const LOG_LINE: u64 = 8 * 1024;

/// Writes what is sent, until the child takes no more.
pub async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = stdin.write_all(&line).await {
            tracing::debug!(%error, "A server takes no more input");
            return;
        }
    }
}

/// Reads the child's messages until it says no more, or a line that is too long.
pub async fn read_lines(stdout: ChildStdout, max: usize, session: &Session) {
    let mut reader = BufReader::with_capacity(64 * 1024, stdout);
    let mut first = true;
    loop {
        let mut line = Vec::new();
        let limit = max as u64 + 1;
        match (&mut reader).take(limit).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) if line.len() > max => {
                return tracing::error!(max, "A server wrote a line that is too long");
            }
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => {
                let line = if std::mem::take(&mut first) { without_mark(&line) } else { &line };
                session.take_line(Bytes::copy_from_slice(line.trim_ascii())).await;
            }
            Err(error) => return tracing::warn!(%error, "A server's output broke off"),
        }
    }
}

/// Without the byte order mark that a server may write before all else.
fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

/// What a server says of itself goes to our log, line by line.
pub async fn log_lines(stderr: ChildStderr) {
    let mut reader = BufReader::new(stderr).take(u64::MAX);
    loop {
        let mut line = Vec::new();
        reader.set_limit(LOG_LINE);
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::info!(target: "mcp_server", "{}", String::from_utf8_lossy(line.trim_ascii_end()));
            }
        }
    }
}
