//! Which process needs which address and secret.

use stack::{
    ClickHouse, Folder, McpServer, Nats, Part, Postgres, PostgresSettings, Row, Service,
    ServiceSettings, StripeSim, ports,
};

use crate::{Api, PlantError};

/// How the whole is started.
#[derive(Clone, Debug)]
pub struct PlantSettings {
    /// Whether PostgreSQL waits for the disk. Tests may do without: they kill processes, not machines.
    pub fsync: bool,
    /// How often running hours are sealed in part. Unit: milliseconds.
    pub seal_interval_ms: u32,
    /// How long leases last. Unit: milliseconds.
    pub lease_ttl_ms: u32,
    /// Whether a node serves the upstream over stdio, as a child of its own, rather than over HTTP.
    pub stdio: bool,
    /// How many nodes.
    pub nodes: usize,
}

impl Default for PlantSettings {
    fn default() -> Self {
        Self { fsync: true, seal_interval_ms: 1_000, lease_ttl_ms: 90_000, stdio: false, nodes: 1 }
    }
}

/// The key that the simulator takes by default.
pub const STRIPE_KEY: &str = "sk_test_stripe_sim";

/// Everything that runs. Dropping it ends it all.
pub struct Plant {
    pub folder: Folder,
    pub nats: Nats,
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    pub stripe_sim: StripeSim,
    pub mcp_server: McpServer,
    pub ledger: Service,
    pub ingest: Service,
    pub billing: Service,
    pub admin: Service,
    pub nodes: Vec<Service>,
    pub addresses: Addresses,
    pub operator_token: String,
}

/// Where people and programs reach it.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub database: String,
    pub clickhouse: String,
    pub billing: String,
    pub admin: String,
    /// The MCP endpoint of each node.
    pub nodes: Vec<String>,
    pub webhook_secret: String,
}

impl Plant {
    /// Starts all parts and all services and waits until each is healthy; says what it does through `tell`.
    ///
    /// # Errors
    /// Whatever does not come up; the error has the tail of its log.
    pub async fn start(
        folder: &Folder,
        settings: PlantSettings,
        tell: impl Fn(&str),
    ) -> Result<Self, PlantError> {
        tell("NATS, PostgreSQL, ClickHouse, the Stripe simulator, an MCP server");
        let (nats, postgres, clickhouse, stripe_sim, mcp_server) = tokio::try_join!(
            Nats::start(folder),
            Postgres::start_with(folder, PostgresSettings { fsync: settings.fsync }),
            ClickHouse::start(folder),
            StripeSim::start(folder),
            McpServer::start(folder),
        )?;
        let database = postgres.create_database("tollbook").await?;
        let authority = clickhouse.url().trim_start_matches("http://").to_owned();
        let clickhouse_url =
            format!("http://{}:{}@{authority}/tollbook", clickhouse.user(), clickhouse.password());
        let operator_token = random()?;
        let billing_listen = listen()?;
        let webhook_secret = register_webhook(&stripe_sim.url(), &billing_listen).await?;
        let env = Wiring {
            nats: nats.url(),
            database: database.clone(),
            clickhouse: clickhouse_url.clone(),
            stripe: stripe_sim.url(),
            webhook_secret: webhook_secret.clone(),
            operator_token: operator_token.clone(),
            settings: settings.clone(),
        };
        tell("ledger, ingest, billing, admin-api, mcp-node");
        let admin_listen = listen()?;
        let ledger = Service::start(folder, env.ledger(&listen()?)).await?;
        let upstream = if settings.stdio {
            Err(mcp_server.tools().stdio_command())
        } else {
            Ok(mcp_server.url())
        };
        let (mut nodes, mut node_urls) = (Vec::new(), Vec::new());
        let (ingest, billing, admin) = tokio::try_join!(
            Service::start(folder, env.ingest(&listen()?)),
            Service::start(folder, env.billing(&billing_listen)),
            Service::start(folder, env.admin(&admin_listen)),
        )?;
        for number in 1..=settings.nodes {
            let listen = listen()?;
            nodes
                .push(Service::start(folder, env.node(number, &listen, folder, &upstream)?).await?);
            node_urls.push(format!("http://{listen}/mcp"));
        }
        let addresses = Addresses {
            database,
            clickhouse: clickhouse_url,
            billing: format!("http://{billing_listen}"),
            admin: format!("http://{admin_listen}"),
            nodes: node_urls,
            webhook_secret,
        };
        let folder = folder.clone();
        Ok(Self {
            folder,
            nats,
            postgres,
            clickhouse,
            stripe_sim,
            mcp_server,
            ledger,
            ingest,
            billing,
            admin,
            nodes,
            addresses,
            operator_token,
        })
    }

    /// The admin API, as its operator.
    #[must_use]
    pub fn admin_api(&self) -> Api {
        Api::new(&self.addresses.admin, Some(&self.operator_token))
    }

    /// Billing's own API, as its operator.
    #[must_use]
    pub fn billing_api(&self) -> Api {
        Api::new(&self.addresses.billing, Some(&self.operator_token))
    }

    /// The simulator's control API.
    #[must_use]
    pub fn stripe_control(&self) -> Api {
        Api::new(&self.stripe_sim.url(), None)
    }

    /// Where the simulator is.
    #[must_use]
    pub fn stripe_sim_url(&self) -> String {
        self.stripe_sim.url()
    }

    /// One line for everything that runs.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let f = &self.folder;
        let mut rows = vec![
            Row::of(&self.nats, f),
            Row::of(&self.postgres, f),
            Row::of(&self.clickhouse, f),
            Row::of(&self.stripe_sim, f),
            Row::of(&self.mcp_server, f),
            Row::of(&self.ledger, f),
            Row::of(&self.ingest, f),
            Row::of(&self.billing, f),
            Row::of(&self.admin, f),
        ];
        rows.extend(self.nodes.iter().map(|node| Row::of(node, f)));
        rows
    }

    /// Ends everything in order: nodes first, so that they give their leases back, the parts last.
    ///
    /// # Errors
    /// The first that outlives even SIGKILL; the others are ended all the same.
    pub async fn stop(mut self) -> Result<(), PlantError> {
        let mut outcome = Ok(());
        for node in &mut self.nodes {
            outcome = outcome.and(node.stop().await);
        }
        for service in [&mut self.admin, &mut self.billing, &mut self.ingest, &mut self.ledger] {
            outcome = outcome.and(service.stop().await);
        }
        outcome = outcome.and(self.mcp_server.stop().await);
        outcome = outcome.and(self.stripe_sim.stop().await);
        outcome = outcome.and(self.clickhouse.stop().await);
        outcome = outcome.and(self.postgres.stop().await);
        outcome = outcome.and(self.nats.stop().await);
        Ok(outcome?)
    }
}

/// Tells Stripe where webhooks go; Stripe answers with the secret that it signs with.
async fn register_webhook(stripe: &str, billing_listen: &str) -> Result<String, PlantError> {
    let url = format!("http://{billing_listen}/stripe/webhook");
    let fields = [("url", url.as_str()), ("enabled_events[]", "*")];
    let endpoint =
        Api::new(stripe, Some(STRIPE_KEY)).post_form("/v1/webhook_endpoints", &fields).await?;
    Ok(crate::api::text(&endpoint, "/secret")?)
}

struct Wiring {
    nats: String,
    database: String,
    clickhouse: String,
    stripe: String,
    webhook_secret: String,
    operator_token: String,
    settings: PlantSettings,
}

impl Wiring {
    fn ledger(&self, listen: &str) -> ServiceSettings {
        service(
            "ledger",
            "ledger",
            "LEDGER",
            listen,
            &[
                ("NATS_URL", &self.nats),
                ("POSTGRES_URL", &self.database),
                ("SEAL_INTERVAL_MS", &self.settings.seal_interval_ms.to_string()),
                ("LEASE_TTL_MS", &self.settings.lease_ttl_ms.to_string()),
            ],
        )
    }

    fn ingest(&self, listen: &str) -> ServiceSettings {
        let env = [("NATS_URL", self.nats.as_str()), ("CLICKHOUSE_URL", &self.clickhouse)];
        service("ingest", "ingest", "INGEST", listen, &env)
    }

    fn billing(&self, listen: &str) -> ServiceSettings {
        service(
            "billing",
            "billing",
            "BILLING",
            listen,
            &[
                ("NATS_URL", &self.nats),
                ("POSTGRES_URL", &self.database),
                ("STRIPE_URL", &self.stripe),
                ("STRIPE_API_KEY", STRIPE_KEY),
                ("STRIPE_WEBHOOK_SECRETS", &self.webhook_secret),
                ("OPERATOR_TOKEN", &self.operator_token),
                ("SETUP", "1"),
            ],
        )
    }

    fn admin(&self, listen: &str) -> ServiceSettings {
        service(
            "admin-api",
            "admin-api",
            "ADMIN",
            listen,
            &[
                ("NATS_URL", &self.nats),
                ("POSTGRES_URL", &self.database),
                ("CLICKHOUSE_URL", &self.clickhouse),
                ("OPERATOR_TOKEN", &self.operator_token),
            ],
        )
    }

    fn node(
        &self,
        number: usize,
        listen: &str,
        folder: &Folder,
        upstream: &Result<String, (std::path::PathBuf, Vec<String>)>,
    ) -> Result<ServiceSettings, PlantError> {
        let name = format!("mcp-node-{number}");
        let spool = folder.part(&name)?.join("spool");
        let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "0"));
        let spool = spool.to_string_lossy().into_owned();
        let mut settings = service(
            "mcp-node",
            &name,
            "MCP",
            listen,
            &[
                ("NATS_URL", &self.nats),
                ("NODE_ID", &format!("node-{number}")),
                ("SPOOL_DIR", &spool),
                ("SERVER_HOST", host),
                ("SERVER_PORT", port),
            ],
        );
        settings.env.retain(|(name, _)| name != "MCP_LISTEN");
        settings.args.clear();
        match upstream {
            Ok(url) => settings.env.push(("MCP_UPSTREAM_URL".into(), url.clone())),
            Err((program, args)) => {
                settings.args.push("--".into());
                settings.args.push(program.into());
                settings.args.extend(args.iter().map(Into::into));
            }
        }
        Ok(settings)
    }
}

fn service(
    binary: &str,
    name: &str,
    prefix: &str,
    listen: &str,
    env: &[(&str, &str)],
) -> ServiceSettings {
    let mut all = vec![(format!("{prefix}_LISTEN"), listen.to_owned())];
    all.extend(env.iter().map(|(name, value)| (format!("{prefix}_{name}"), (*value).to_owned())));
    ServiceSettings {
        binary: binary.to_owned(),
        name: name.to_owned(),
        args: vec!["serve".into()],
        env: all,
        health: format!("http://{listen}/ready"),
    }
}

fn listen() -> Result<String, PlantError> {
    Ok(format!("127.0.0.1:{}", ports::free()?))
}

fn random() -> Result<String, PlantError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)
        .map_err(|error| PlantError::Unexpected(format!("no randomness: {error}")))?;
    Ok(hex::encode(bytes))
}
