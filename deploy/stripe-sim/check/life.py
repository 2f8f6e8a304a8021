"""A whole life through the official Python library: customer, meter, metered price, checkout, webhook, usage, summaries;
then, on a test clock, renewal, a failing card, recovery, a change of plan, a credit note, credit grants and the end.

Usage: pip install -r requirements.txt; python life.py http://127.0.0.1:12111 [API_KEY]
Prints one line per step and ends with "all good", or stops at the first thing that is not as Stripe would have it.
"""

import http.server
import json
import queue
import sys
import threading
import time
import urllib.request

import stripe

address = sys.argv[1].rstrip("/")
api_key = sys.argv[2] if len(sys.argv) > 2 else "sk_test_stripe_sim"
client = stripe.StripeClient(api_key, base_addresses={"api": address}, max_network_retries=0)
received = queue.Queue()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the raw body and the signature header of every webhook."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received.put((body, self.headers["Stripe-Signature"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def control(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + "/_sim" + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def step(text, holds=True):
    print(("ok  " if holds else "BAD ") + text)
    if not holds:
        sys.exit(1)


receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()

suffix = str(time.time_ns())
endpoint = client.v1.webhook_endpoints.create({
    "url": f"http://127.0.0.1:{receiver.server_port}/hook",
    "enabled_events": ["checkout.session.completed", "customer.subscription.created", "invoice.paid"],
    "api_version": "2026-10-28.endive",
})
step("webhook endpoint with a secret", endpoint.secret.startswith("whsec_"))

product = client.v1.products.create({"name": "Tool calls"})
meter = client.v1.billing.meters.create({
    "display_name": "Tool calls", "event_name": f"calls_{suffix}", "default_aggregation": {"formula": "sum"},
})
price = client.v1.prices.create({
    "currency": "usd", "product": product.id, "billing_scheme": "tiered", "tiers_mode": "graduated",
    "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
    "tiers": [{"up_to": 1000, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": "0.25"}],
    "expand": ["tiers"],
})
step("tiered metered price", price.tiers[1].up_to is None and price.recurring.meter == meter.id)

customer = client.v1.customers.create({"email": "buyer@example.test", "metadata": {"tenant": "tnt_1"}})
session = client.v1.checkout.sessions.create({
    "mode": "subscription", "customer": customer.id, "client_reference_id": "tnt_1",
    "success_url": "http://127.0.0.1/done", "line_items": [{"price": price.id}],
    "subscription_data": {"metadata": {"tenant": "tnt_1"}},
})
control(f"/checkout/sessions/{session.id}/complete", {})
session = client.v1.checkout.sessions.retrieve(session.id, {"expand": ["subscription"]})
step("checkout completes into an active subscription", session.status == "complete" and session.subscription.status == "active")

kinds = set()
for _ in range(3):
    body, signature = received.get(timeout=10)
    event = client.construct_event(body, signature, endpoint.secret)
    kinds.add(event.type)
step("three webhooks verify", kinds == {"checkout.session.completed", "customer.subscription.created", "invoice.paid"})
try:
    client.construct_event(body + b" ", signature, endpoint.secret)
    step("a changed body is refused", False)
except stripe.SignatureVerificationError:
    step("a changed body is refused")

start = int(time.time()) // 3600 * 3600 - 30 * 3600
for hour in range(25):
    client.v1.billing.meter_events.create({
        "event_name": meter.event_name, "identifier": f"{suffix}-{hour}", "timestamp": start + hour * 3600,
        "payload": {"stripe_customer_id": customer.id, "value": str(hour)},
    }, {"idempotency_key": f"{suffix}-{hour}"})
try:
    client.v1.billing.meter_events.create({
        "event_name": meter.event_name, "identifier": f"{suffix}-1", "payload": {"stripe_customer_id": customer.id, "value": "1"},
    })
    step("a repeated identifier is refused", False)
except stripe.InvalidRequestError as error:
    step(f"a repeated identifier is refused: {error.user_message}", "already exists with identifier" in error.user_message)

window = {"customer": customer.id, "start_time": start, "end_time": start + 25 * 3600}
hourly = {**window, "value_grouping_window": "hour"}
first_page = client.v1.billing.meters.event_summaries.list(meter.id, hourly)
step("one page has ten rows", len(first_page.data) == 10 and first_page.has_more)
rows = list(first_page.auto_paging_iter())
# An hour with a value of 0 has an event, and so a row.
step("paging reaches the whole", len(rows) == 25 and sum(row.aggregated_value for row in rows) == sum(range(25)))
whole = client.v1.billing.meters.event_summaries.list(meter.id, window)
step("one ungrouped row says the same", whole.data[0].aggregated_value == sum(range(25)))

try:
    client.v1.customers.retrieve("cus_none")
except stripe.InvalidRequestError as error:
    step("an unknown customer is resource_missing", error.http_status == 404 and error.code == "resource_missing")
try:
    stripe.StripeClient("sk_test_wrong", base_addresses={"api": address}).v1.customers.list()
except stripe.AuthenticationError as error:
    step("a wrong key is 401", error.http_status == 401)
first = client.v1.customers.create({"name": "A"}, {"idempotency_key": suffix})
again = client.v1.customers.create({"name": "A"}, {"idempotency_key": suffix})
step("an idempotency key replays", first.id == again.id)
try:
    client.v1.customers.create({"name": "B"}, {"idempotency_key": suffix})
except stripe.IdempotencyError:
    step("and refuses other parameters")

cancelled = client.v1.subscriptions.cancel(session.subscription.id)
step("a subscription is cancelled", cancelled.status == "canceled")

DAY = 86_400
began = int(time.time()) // 3600 * 3600
clock = client.v1.test_helpers.test_clocks.create({"frozen_time": began, "name": "a life"})


def until(second):
    moving = client.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": second})
    step("the clock advances", moving.status == "advancing")
    while client.v1.test_helpers.test_clocks.retrieve(clock.id).status != "ready":
        pass


def use(value, at):
    client.v1.billing.meter_events.create({
        "event_name": meter.event_name, "timestamp": at, "payload": {"stripe_customer_id": buyer.id, "value": str(value)},
    })


def latest():
    return client.v1.invoices.list({"subscription": life.id, "limit": 1}).data[0]


def read(expand=()):
    return client.v1.subscriptions.retrieve(life.id, {"expand": list(expand)})


def item(subscription, price_id):
    return next(row for row in subscription["items"].data if row.price.id == price_id)


buyer = client.v1.customers.create({"email": "year@example.test", "test_clock": clock.id})
calls = client.v1.prices.create({
    "currency": "usd", "unit_amount_decimal": "0.5", "product": product.id,
    "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
})
seat = client.v1.prices.create({
    "currency": "usd", "unit_amount": 3000, "product_data": {"name": "Seat"}, "recurring": {"interval": "month"},
})
life = client.v1.subscriptions.create({
    "customer": buyer.id, "items": [{"price": calls.id}, {"price": seat.id, "quantity": 1}], "billing_mode": {"type": "flexible"},
})
edge = life["items"].data[0].current_period_end
use(5, began)
preview = client.v1.invoices.create_preview({"subscription": life.id})
step(f"the preview rates 5 at half a cent: {preview.total}", preview.total == 3003)
until(edge)
step("the renewal is a draft in its grace", latest().status == "draft")
use(2, edge - 1)
until(edge + 3600)
renewed = latest()
step(f"late usage within the grace is counted: {renewed.total}", renewed.status == "paid" and renewed.total == 3004)

control(f"/customers/{buyer.id}/card", {"outcome": "decline", "times": 2})
edge = read()["items"].data[0].current_period_end
until(edge + 3600)
current = read(["latest_invoice"])
step("a failed renewal is past due", current.status == "past_due" and current.latest_invoice.status == "open")
try:
    client.v1.invoices.pay(current.latest_invoice.id)
    step("paying by hand meets the same card", False)
except stripe.CardError as error:
    step("paying by hand meets the same card", error.code == "card_declined")
until(edge + 3 * DAY)
step("a retry recovers it", read().status == "active")

dear = client.v1.prices.create({
    "currency": "usd", "unit_amount": 7, "product": product.id,
    "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
})
use(4, edge + DAY)
client.v1.subscriptions.update(life.id, {"items": [
    {"id": item(life, calls.id).id, "price": dear.id}, {"id": item(life, seat.id).id, "quantity": 2},
]})
pending = client.v1.invoice_items.list({"customer": buyer.id, "pending": True}).data
owed = [row for row in pending if row.amount == 2 and not row.proration]
step("a change of plan owes old usage and prorations", len(pending) == 3 and len(owed) == 1)
note = client.v1.credit_notes.create({"invoice": renewed.id, "amount": 500, "credit_amount": 500, "reason": "order_change"})
step("a credit note fills the balance", note.status == "issued" and client.v1.customers.retrieve(buyer.id).balance == -500)
client.v1.billing.credit_grants.create({
    "customer": buyer.id, "category": "promotional", "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 10}},
    "applicability_config": {"scope": {"price_type": "metered"}},
})
portal = client.v1.billing_portal.sessions.create({"customer": buyer.id})
urllib.request.urlopen(urllib.request.Request(portal.url + "/cancel", b"")).close()
step("the portal cancels at the period's end", read().cancel_at_period_end)
end = read()["items"].data[0].current_period_end
until(end)
use(10, end - 1)
until(end + 3600)
last = latest()
usage = next(row for row in last.lines.data if row.pricing and row.pricing.price_details.price == dear.id)
step("the last usage is billed at the new price", usage.amount == 70 and usage.quantity == 10)
credited = sum(row.amount for row in last.total_pretax_credit_amounts)
step(f"credits come first: {credited}", credited == 10)
step("and then it is over", read().status == "canceled")
client.v1.test_helpers.test_clocks.delete(clock.id)

client.v1.billing.meters.deactivate(meter.id)
health = control("/health")
step(f"self-check: {health['complaints']}", not any(health[name] for name in ("unvalidated_paths", "invalid_responses", "not_simulated")))
print("all good")
