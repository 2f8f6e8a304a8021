// A whole life through the official Node library: customer, meter, metered price, checkout, webhook, usage, summaries; then, on a
// test clock, renewal, a failing card, recovery, a change of plan, a credit note, credit grants and the end.
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

const began = Math.floor(Date.now() / 3_600_000) * 3600;
let clock = await stripe.testHelpers.testClocks.create({ frozen_time: began, name: "a life" });
async function until(second) {
  clock = await stripe.testHelpers.testClocks.advance(clock.id, { frozen_time: second });
  step("the clock advances", clock.status === "advancing");
  while (clock.status !== "ready") clock = await stripe.testHelpers.testClocks.retrieve(clock.id);
}
const day = 86_400;
const buyer = await stripe.customers.create({ email: "year@example.test", test_clock: clock.id });
const seat = await stripe.prices.create({
  currency: "usd", unit_amount: 3000, product_data: { name: "Seat" }, recurring: { interval: "month" },
});
const life = await stripe.subscriptions.create({
  customer: buyer.id, items: [{ price: price.id }, { price: seat.id, quantity: 1 }], billing_mode: { type: "flexible" },
});
const [calls, seats] = life.items.data;
const use = (value, timestamp) =>
  stripe.billing.meterEvents.create({ event_name: meter.event_name, timestamp, payload: { stripe_customer_id: buyer.id, value: String(value) } });
await use(5, began);
const preview = await stripe.invoices.createPreview({ subscription: life.id });
step(`the preview rates 5 at half a cent: ${preview.total}`, preview.total === 3003);
await until(calls.current_period_end);
const latest = async () => (await stripe.invoices.list({ subscription: life.id, limit: 1 })).data[0];
step("the renewal is a draft in its grace", (await latest()).status === "draft");
await use(2, calls.current_period_end - 1);
await until(calls.current_period_end + 3600);
const renewed = await latest();
step(`late usage within the grace is counted: ${renewed.total}`, renewed.status === "paid" && renewed.total === 3004);

await control(`/customers/${buyer.id}/card`, { outcome: "decline", times: 2 });
let current = await stripe.subscriptions.retrieve(life.id);
const edge = current.items.data[0].current_period_end;
await until(edge + 3600);
current = await stripe.subscriptions.retrieve(life.id, { expand: ["latest_invoice"] });
step("a failed renewal is past due", current.status === "past_due" && current.latest_invoice.status === "open");
const declined = await refused(() => stripe.invoices.pay(current.latest_invoice.id));
step("paying by hand meets the same card", declined.type === "StripeCardError" && declined.code === "card_declined");
await until(edge + 3 * day);
step("a retry recovers it", (await stripe.subscriptions.retrieve(life.id)).status === "active");

const dear = await stripe.prices.create({
  currency: "usd", unit_amount: 7, product_data: { name: "Dear calls" }, recurring: { interval: "month", usage_type: "metered", meter: meter.id },
});
await use(4, edge + day);
await stripe.subscriptions.update(life.id, { items: [{ id: calls.id, price: dear.id }, { id: seats.id, quantity: 2 }] });
const items = await stripe.invoiceItems.list({ customer: buyer.id, pending: true });
step("a change of plan owes old usage and prorations", items.data.length === 3 && items.data.some((row) => row.amount === 2 && !row.proration));
const note = await stripe.creditNotes.create({ invoice: renewed.id, amount: 500, credit_amount: 500, reason: "order_change" });
step("a credit note fills the balance", note.status === "issued" && (await stripe.customers.retrieve(buyer.id)).balance === -500);
await stripe.billing.creditGrants.create({
  customer: buyer.id, category: "promotional", amount: { type: "monetary", monetary: { currency: "usd", value: 10 } },
  applicability_config: { scope: { price_type: "metered" } },
});
const portal = await stripe.billingPortal.sessions.create({ customer: buyer.id });
await fetch(`${portal.url}/cancel`, { method: "POST" });
step("the portal cancels at the period's end", (await stripe.subscriptions.retrieve(life.id)).cancel_at_period_end);
const end = (await stripe.subscriptions.retrieve(life.id)).items.data[0].current_period_end;
await until(end);
await use(10, end - 1);
await until(end + 3600);
const last = await latest();
const usage = last.lines.data.find((line) => line.pricing?.price_details?.price === dear.id);
step("the last usage is billed at the new price", usage.amount === 70 && usage.quantity === 10);
const credited = last.total_pretax_credit_amounts.reduce((sum, row) => sum + row.amount, 0);
step(`credits come first: ${credited}`, credited === 10);
step("and then it is over", (await stripe.subscriptions.retrieve(life.id)).status === "canceled");
await stripe.testHelpers.testClocks.del(clock.id);

await stripe.webhookEndpoints.del(endpoint.id);
const health = await control("/health");
step(`self-check: ${JSON.stringify(health.complaints)}`, health.unvalidated_paths === 0 && health.invalid_responses === 0 && health.not_simulated === 0);
receiver.close();
receiver.closeAllConnections();
console.log("all good");
