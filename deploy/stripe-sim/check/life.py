"""A whole life through the official Python library: customer, meter, metered price, checkout, webhook, usage, summaries.

Usage: pip install stripe; python life.py http://127.0.0.1:12111 [API_KEY]
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
client.v1.billing.meters.deactivate(meter.id)
health = control("/health")
step(f"self-check: {health['complaints']}", health["unvalidated_paths"] == 0 and health["invalid_responses"] == 0)
print("all good")
