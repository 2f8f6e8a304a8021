//! Settings that are read again while the node runs: at SIGHUP, or not at all if they cannot be used.
//!
//! New requests meet the new door; those that run keep the one before to their end. What needs another socket, spool or
//! connection (where to listen, NATS, the spool, spans, our own tokens) waits for a restart.

use std::{error::Error, ffi::OsString, sync::Arc};

use mcp_node::http::{DoorSettings, GatewayState, SharedGateway, Tls};
use runtime::telemetry;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError},
    servers::Servers,
};

/// What is changed.
pub struct Reload {
    /// The command line.
    pub args: Vec<OsString>,
    pub door: SharedGateway,
    pub servers: Servers,
    pub tls: Option<Arc<Tls>>,
    /// Cancelled when the node stops.
    pub closing: CancellationToken,
}

impl Reload {
    /// Changes what can change at each hangup, and returns the servers of the end when `stop` comes.
    pub async fn run(mut self, mut hangups: Signal, stop: impl Future<Output = ()>) -> Servers {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() {
                    stop.await;
                    return self.servers;
                },
                () = &mut stop => return self.servers,
            }
            self.read_certificates();
            match self.read_settings() {
                Ok(before) => {
                    self.servers.retire(&before);
                    tracing::info!("The settings were read again");
                }
                Err(error) => {
                    let error = &error as &dyn Error;
                    tracing::error!(error, "The settings stay as they were");
                }
            }
        }
    }

    fn read_certificates(&self) {
        let Some(tls) = &self.tls else { return };
        match tls.reload() {
            Ok(()) => tracing::info!("The certificates were read again"),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::error!(error, "The certificates stay as they were");
            }
        }
    }

    /// Puts a new door in the place of the one that there is, and returns the servers behind that.
    fn read_settings(&mut self) -> Result<Servers, ConfigError> {
        let config = Config::read(&self.args)?;
        telemetry::set_level(config.log_level);
        let servers = self.servers.changed(&config);
        if let Some(before) = self.door.get() {
            let access = Arc::new(before.access.changed(config.access, &self.closing));
            let (meter, signer) = (before.meter.clone(), servers.signer());
            meter.change(config.metering);
            let traces = before.traces.clone();
            let (front, named) = (servers.front(), servers.named());
            // Where the node listens has not changed, whatever the file says now.
            let settings = DoorSettings { loopback: before.settings.loopback, ..config.door };
            let limits = before.limits.clone();
            limits.change(settings.addresses.clone());
            let door =
                GatewayState { meter, front, named, access, signer, traces, limits, settings };
            self.door.set(door);
            servers.announce();
        }
        Ok(std::mem::replace(&mut self.servers, servers))
    }
}
