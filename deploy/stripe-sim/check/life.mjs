// A whole life through the official Node library: customer, meter, metered price, checkout, webhook, usage, summaries.
//
// Usage: npm install stripe@23.1.0; node life.mjs http://127.0.0.1:12111 [API_KEY]
// Prints one line per step and ends with "all good", or stops at the first thing that is not as Stripe would have it.

import { once } from "node:events";
import { createServer } from "node:http";
import Stripe from "stripe";

const address = new URL(process.argv[2]);
const apiKey = process.argv[3] ?? "sk_test_stripe_sim";
const server = { host: address.hostname, port: Number(address.port), protocol: "http" };
const stripe = new Stripe(apiKey, { ...server, maxNetworkRetries: 0 });

function step(text, holds = true) {
  console.log(`${holds ? "ok " : "BAD"} ${text}`);
  if (!holds) process.exit(1);
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return step("a call that should be refused", false);
}

async function control(path, body) {
  const request = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(new URL(`/_sim${path}`, address), request);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const webhooks = [];
const receiver = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  webhooks.push({ body: Buffer.concat(parts), signature: request.headers["stripe-signature"] });
  response.end();
  receiver.emit("webhook");
});
receiver.listen(0, "127.0.0.1");
await once(receiver, "listening");

const suffix = String(process.hrtime.bigint());
const endpoint = await stripe.webhookEndpoints.create({
  url: `http://127.0.0.1:${receiver.address().port}/hook`,
  enabled_events: ["checkout.session.completed", "customer.subscription.created", "invoice.paid"],
});
step("webhook endpoint with a secret", endpoint.secret.startsWith("whsec_"));

const meter = await stripe.billing.meters.create({
  display_name: "Tool calls",
  event_name: `calls_${suffix}`,
  default_aggregation: { formula: "sum" },
});
const price = await stripe.prices.create({
  currency: "usd",
  unit_amount_decimal: "0.5",
  product_data: { name: "Tool calls" },
  recurring: { interval: "month", usage_type: "metered", meter: meter.id },
});
step("metered price below a cent", price.unit_amount === null && String(price.unit_amount_decimal) === "0.5");

const session = await stripe.checkout.sessions.create({
  mode: "subscription",
  customer_email: "buyer@example.test",
  client_reference_id: "tnt_1",
  success_url: "http://127.0.0.1/done?session={CHECKOUT_SESSION_ID}",
  line_items: [{ price: price.id }],
});
await control(`/checkout/sessions/${session.id}/complete`, { name: "Ann" });
const done = await stripe.checkout.sessions.retrieve(session.id, { expand: ["subscription", "customer", "line_items"] });
step("checkout makes the customer and an active subscription", done.subscription.status === "active" && done.customer.name === "Ann");

while (webhooks.length < 3) await once(receiver, "webhook");
const events = webhooks.map(({ body, signature }) => stripe.webhooks.constructEvent(body, signature, endpoint.secret));
const kinds = events.map((event) => event.type).sort().join(" ");
step(`webhooks verify: ${kinds}`, kinds === "checkout.session.completed customer.subscription.created invoice.paid");
const forged = await refused(() => stripe.webhooks.constructEvent(webhooks[0].body, webhooks[0].signature, "whsec_other"));
step("another secret is refused", forged.type === "StripeSignatureVerificationError");

const customer = done.customer.id;
const start = Math.floor(Date.now() / 3_600_000) * 3600 - 30 * 3600;
for (let hour = 0; hour < 25; hour += 1) {
  await stripe.billing.meterEvents.create(
    { event_name: meter.event_name, identifier: `${suffix}-${hour}`, timestamp: start + hour * 3600, payload: { stripe_customer_id: customer, value: "2" } },
    { idempotencyKey: `${suffix}-${hour}` },
  );
}
const duplicate = await refused(() =>
  stripe.billing.meterEvents.create({ event_name: meter.event_name, identifier: `${suffix}-0`, payload: { stripe_customer_id: customer, value: "2" } }),
);
step(`a repeated identifier is refused: ${duplicate.message}`, duplicate.statusCode === 400 && duplicate.headers["stripe-should-retry"] === "false");
const old = await refused(() =>
  stripe.billing.meterEvents.create({ event_name: meter.event_name, timestamp: start - 35 * 86_400, payload: { stripe_customer_id: customer, value: "2" } }),
);
step(`an old event is refused: ${old.message}`, old.param === "timestamp");

const window = { customer, start_time: start, end_time: start + 25 * 3600, value_grouping_window: "hour" };
const page = await stripe.billing.meters.listEventSummaries(meter.id, window);
step("one page has ten rows", page.data.length === 10 && page.has_more);
let total = 0;
for await (const row of stripe.billing.meters.listEventSummaries(meter.id, window)) total += row.aggregated_value;
step(`paging reaches the whole: ${total}`, total === 50);

await control(`/subscriptions/${done.subscription.id}/status`, { status: "past_due" });
step("the subscription is past due", (await stripe.subscriptions.retrieve(done.subscription.id)).status === "past_due");
await stripe.subscriptions.update(done.subscription.id, { metadata: { note: "x" } });
const listed = await stripe.subscriptions.list({ customer, status: "all" });
step("and is listed by customer", listed.data.length === 1 && listed.data[0].metadata.note === "x");

const unknown = await refused(() => stripe.customers.retrieve("cus_none"));
step("an unknown customer is resource_missing", unknown.statusCode === 404 && unknown.code === "resource_missing");
const stranger = new Stripe("sk_test_wrong", { ...server, maxNetworkRetries: 0 });
step("a wrong key is 401", (await refused(() => stranger.customers.list())).type === "StripeAuthenticationError");

await control("/faults", { api: [{ kind: "lost_after", method: "POST", path: "/v1/customers" }] });
const patient = new Stripe(apiKey, { ...server, maxNetworkRetries: 2 });
const survived = await patient.customers.create({ email: `${suffix}@example.test` });
const survivors = await stripe.customers.list({ email: `${suffix}@example.test` });
step("a lost answer is retried into one customer", survivors.data.length === 1 && survivors.data[0].id === survived.id);

await stripe.webhookEndpoints.del(endpoint.id);
const health = await control("/health");
step(`self-check: ${JSON.stringify(health.complaints)}`, health.unvalidated_paths === 0 && health.invalid_responses === 0);
receiver.close();
receiver.closeAllConnections();
console.log("all good");
