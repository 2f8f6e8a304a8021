//! The Stripe simulator: our own binary `stripe-sim`, beside this one.

use super::{Part, args, spec};
use crate::child::Child;
use crate::error::StackError;
use crate::folder::Folder;
use crate::settings::Settings;
use crate::{ports, ready};

const PART: &str = "stripe-sim";

/// A running Stripe simulator.
pub struct StripeSim {
    child: Child,
    port: u16,
    _folder: Folder,
}

impl StripeSim {
    /// Starts a simulator; its log is in `folder`.
    ///
    /// # Errors
    /// The binary has not been built, or it does not come up.
    pub async fn start(folder: &Folder) -> Result<Self, StackError> {
        let program = Settings::from_env().own_binary(PART)?;
        let port = ports::free()?;
        let listen = format!("127.0.0.1:{port}");
        let mut spec = spec(PART, program, folder, folder.part(PART)?);
        spec.args = args(["--listen", &listen]);
        let probe =
            ready::http_get(&format!("http://{listen}/_sim/health"), |status| status == 200);
        let child = Child::start(spec, probe).await?;
        Ok(Self { child, port, _folder: folder.clone() })
    }

    /// `http://127.0.0.1:port`: the base address of the API, to give to Stripe clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Part for StripeSim {
    fn name(&self) -> &str {
        PART
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn address(&self) -> String {
        self.url()
    }

    fn child(&self) -> Result<&Child, StackError> {
        Ok(&self.child)
    }

    fn child_mut(&mut self) -> Result<&mut Child, StackError> {
        Ok(&mut self.child)
    }
}
