//! The socket of a connection: what goes over it is noted in its [`Activity`], and a client that goes away while its
//! request runs is noticed.
//!
//! A client that has sent its request may close its sending half and read on (`nc -N`): it is answered. One that has
//! gone looks the same until something is sent to it, which its system then answers by a reset. So at the end of what
//! a client sends, something harmless is sent: an interim response where no answer has begun (to clients whose going
//! away cancels, since 2026-07-28), a comment in a stream of events (by [`super::heartbeat`]). A reset ends the
//! connection, and so drops what runs for it. HTTP/1.0 has no interim responses: there the end of sending is the end of
//! a request that can be cancelled.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;

/// What no client may take for the answer, and every one must be able to read (RFC 9110, 15.2).
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How interim responses begin.
const INTERIM_BEGINS: &[u8] = b"HTTP/1.1 1";
/// How much is read of what comes while a request runs. Unit: bytes.
const READ_AHEAD: usize = 1_024;

/// Something that goes over TCP.
pub trait OverTcp: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

type Reset = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// A socket whose use is noted.
pub struct WatchedSocket<S> {
    inner: S,
    activity: Arc<Activity>,
    /// What came while a request ran: the beginning of the next.
    ahead: Vec<u8>,
    /// The client sends no more.
    ended: bool,
    /// What is left to send of an interim response.
    interim: &'static [u8],
    /// Ends when the client resets the connection; there once it sends no more.
    reset: Option<Reset>,
}

impl<S: OverTcp> WatchedSocket<S> {
    pub fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity, ahead: Vec::new(), ended: false, interim: &[], reset: None }
    }

    /// Looks whether the client has gone away.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(reset) = &mut self.reset {
            return match reset.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => Err(io::ErrorKind::ConnectionReset.into()),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => {
                    if self.activity.take_doubt() && self.interim.is_empty() {
                        self.ask();
                    }
                    Ok(())
                }
            };
        }
        if !self.ahead.is_empty() {
            return Ok(()); // It has sent its next request, so it is there.
        }
        let mut space = [const { MaybeUninit::uninit() }; READ_AHEAD];
        let mut read = ReadBuf::uninit(&mut space);
        match Pin::new(&mut self.inner).poll_read(cx, &mut read) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) if read.filled().is_empty() => self.sends_no_more()?,
            Poll::Ready(Ok(())) => self.ahead.extend_from_slice(read.filled()),
        }
        // Whoever waits for these bytes, or for this end, has not seen them come.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn sends_no_more(&mut self) -> io::Result<()> {
        self.ended = true;
        if self.activity.is_cancellable() && !self.activity.takes_interim() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // hyper owns the socket: a second handle waits for the reset.
        let socket = self.inner.tcp().as_fd().try_clone_to_owned()?;
        let socket = TcpStream::from_std(socket.into())?;
        self.reset =
            Some(Box::pin(async move { socket.ready(Interest::ERROR).await.map(|_reset| ()) }));
        self.activity.take_doubt();
        self.activity.doubt();
        self.ask();
        Ok(())
    }

    /// Sends something that a client which has gone answers by a reset, where it can be sent and matters.
    fn ask(&mut self) {
        if self.activity.is_cancellable() && !self.activity.is_responding() {
            self.interim = INTERIM;
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, self.interim))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[sent..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: OverTcp> AsyncRead for WatchedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            let taken = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..taken]);
            this.ahead.drain(..taken);
            this.activity.received();
            return Poll::Ready(Ok(()));
        }
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            this.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: OverTcp> AsyncWrite for WatchedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        let sent = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.activity.sent(buf.starts_with(INTERIM_BEGINS));
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        let sent = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.activity.sent(bufs.first().is_some_and(|first| first.starts_with(INTERIM_BEGINS)));
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes at the end of each of its turns, and only when all that it has to write is written: so whatever
    /// is sent here stands between two messages.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.is_running() {
            this.watch_client(cx)?;
        }
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_interim(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
