//! The view that stays: where everything is, what to paste, and the numbers as they move.

use std::{io::Write, time::Duration};

use stack::{Part, table};

use crate::{Demo, Plant, PlantError, api::text, ties};

/// Shows the view until `ended`.
///
/// # Errors
/// The first numbers cannot be had.
pub async fn live(
    plant: &Plant,
    demo: &Demo,
    ended: impl Future<Output = ()>,
) -> Result<(), PlantError> {
    let link = plant.admin_api().post("/admin/login-links", &serde_json::json!({})).await?;
    println!("\n{}", table(&plant.rows()));
    println!("{}", guide(plant, demo, &text(&link, "/url")?));
    let mut ended = std::pin::pin!(ended);
    loop {
        let line = match ties(plant, &demo.tenant).await {
            Ok(t) => format!(
                "counted: ledger {}  ClickHouse {}  Stripe {}   refused {}",
                t.ledger, t.clickhouse, t.stripe, t.refused
            ),
            Err(error) => format!("counted: {}", error.report()),
        };
        print!("\r\x1b[2K{line}   (Ctrl-C ends everything)");
        // A terminal that is gone is no reason to stop serving.
        let _ = std::io::stdout().flush();
        tokio::select! {
            () = &mut ended => { println!(); return Ok(()) }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

fn guide(plant: &Plant, demo: &Demo, link: &str) -> String {
    let mcp = plant.addresses.nodes.first().map_or("", String::as_str);
    let (key, limited) = (&demo.roomy.secret, &demo.limited.secret);
    let config = serde_json::json!({ "mcpServers": { "tollbook-demo": {
        "url": mcp, "headers": { "x-api-key": key } } } });
    let desktop = serde_json::json!({ "mcpServers": { "tollbook-demo": { "command": "npx", "args":
        ["-y", "mcp-remote", mcp, "--header", format!("x-api-key:{key}")] } } });
    // The same line is pasted by a test of `mcp-node`.
    let first_call = include_str!("first_call.sh");
    format!(
        "Usage page      {link}
                (opens once; another: POST {admin}/admin/login-links)
Admin API       {admin}   Authorization: Bearer {token}
MCP endpoint    {mcp}
Stripe (simulated)  {stripe}/_sim/meters/totals
Your key        {key}
                10,000 calls a month
Spent key       {limited}
                its quota is used up: every call answers 429

Cursor (.cursor/mcp.json)
  {config}
Claude Desktop (claude_desktop_config.json)
  {desktop}
Any terminal
  NODE={mcp} TOLLBOOK_KEY={key}
{first_call}",
        admin = plant.addresses.admin,
        token = plant.operator_token,
        stripe = plant.stripe_sim.address(),
    )
}
