//! `/v1/test_helpers/test_clocks`: a clock for some customers, moved by the API.
//!
//! A customer made with a `test_clock`, and all that is made for it, lives by that clock alone. Advancing answers `advancing`; what
//! becomes due happens right after that answer, in order, and then the clock is `ready` and says so by an event. Deleting a clock
//! deletes its customers. Absent on purpose: the limits of how far a clock may be advanced at once.

use super::{Answer, Call, customer, page};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::table::id_of;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;

impl Call<'_> {
    /// Puts the call on the clock that a document lives by.
    pub fn enter_clock_of(&mut self, document: &Value) {
        let id = document["test_clock"].as_str().map(str::to_owned);
        self.enter_clock(id.as_deref());
    }

    /// Puts the call on the clock of a customer that is not deleted.
    ///
    /// # Errors
    /// 400 `resource_missing` that names `param`.
    pub fn enter_clock_of_customer(&mut self, id: &str, param: &str) -> Result<(), ApiError> {
        let found = self.world.store.live_customer(id).cloned();
        let row = found.ok_or_else(|| ApiError::no_such("customer", id, param))?;
        self.enter_clock_of(&row);
        Ok(())
    }

    fn enter_clock(&mut self, id: Option<&str>) {
        let clock = id.and_then(|id| self.world.store.test_clocks.get(id));
        if let Some(at) = clock.and_then(|clock| clock["frozen_time"].as_i64()) {
            self.stand_at(at);
        }
    }

    /// Puts the call at a second of a test clock.
    pub fn stand_at(&mut self, at: i64) {
        self.beside_test_clock.get_or_insert(self.now_ms.div_euclid(1000));
        self.now_ms = at.saturating_mul(1000);
    }
}

/// `POST /v1/test_helpers/test_clocks`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let frozen = params.int("frozen_time").unwrap_or_default();
    let name = params.text("name");
    params.finish()?;
    let now = call.now();
    let clock = json!({
        "id": call.mint(ids::TEST_CLOCK), "object": "test_helpers.test_clock", "created": now, "deletes_after": now + 30 * DAY_S,
        "frozen_time": frozen, "livemode": false, "name": name, "status": "ready", "status_details": {},
    });
    call.store().test_clocks.insert(clock.clone());
    call.emit("test_helpers.test_clock.created", &clock, None);
    Ok(clock)
}

/// `GET /v1/test_helpers/test_clocks/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.test_clocks, "test_helpers.test_clock", id, params)
}

/// `GET /v1/test_helpers/test_clocks`.
pub fn list(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let rows = &call.world.store.test_clocks;
    let url = "/v1/test_helpers/test_clocks";
    page(call.world, rows, "test_helpers.test_clock", url, params, |_| true)
}

/// `POST /v1/test_helpers/test_clocks/{id}/advance`.
pub fn advance(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let target = params.int("frozen_time").unwrap_or_default();
    params.finish()?;
    let mut clock = find(call, id)?;
    if clock["frozen_time"].as_i64().is_some_and(|now| target <= now) {
        return Err(ApiError::invalid(
            "frozen_time",
            "The `frozen_time` must be after the clock's current `frozen_time`.",
        ));
    }
    clock["status"] = json!("advancing");
    clock["status_details"] = json!({ "advancing": { "target_frozen_time": target } });
    call.store().test_clocks.replace(clock.clone());
    call.emit("test_helpers.test_clock.advancing", &clock, None);
    Ok(clock)
}

fn find(call: &Call<'_>, id: &str) -> Answer {
    let found = call.world.store.test_clocks.get(id).cloned();
    found.ok_or_else(|| ApiError::not_found("test_helpers.test_clock", id))
}

/// The clocks that were told to advance, with their targets, oldest first.
pub fn advancing(call: &Call<'_>) -> Vec<(String, i64)> {
    let rows = call.world.store.test_clocks.newest_first();
    let mut clocks: Vec<(String, i64)> = rows
        .filter(|row| row["status"] == "advancing")
        .filter_map(|row| {
            let target = row["status_details"]["advancing"]["target_frozen_time"].as_i64()?;
            Some((id_of(row).to_owned(), target))
        })
        .collect();
    clocks.reverse();
    clocks
}

/// The clock stands at its target.
pub fn arrive(call: &mut Call<'_>, id: &str, target: i64) {
    let Some(mut clock) = call.world.store.test_clocks.get(id).cloned() else { return };
    clock["frozen_time"] = json!(target);
    clock["status"] = json!("ready");
    clock["status_details"] = json!({});
    call.stand_at(target);
    call.store().test_clocks.replace(clock.clone());
    call.emit("test_helpers.test_clock.ready", &clock, None);
}

/// `DELETE /v1/test_helpers/test_clocks/{id}`.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let clock = find(call, id)?;
    call.enter_clock(Some(id));
    let customers = call.world.store.customers.newest_first();
    let own: Vec<Value> = customers.filter(|row| row["test_clock"] == id).cloned().collect();
    for row in own {
        customer::remove(call, &row);
    }
    call.store().test_clocks.remove(id);
    call.emit("test_helpers.test_clock.deleted", &clock, None);
    Ok(json!({ "id": id, "object": "test_helpers.test_clock", "deleted": true }))
}
