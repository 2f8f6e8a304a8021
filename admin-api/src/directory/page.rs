//! Lists in the order of making, a page at a time. Pure.
//!
//! A cursor is the sequence of the last item's decision: it stays true whatever is added later.

use std::ops::Bound::{Excluded, Unbounded};

use schemas::TenantId;

use super::{Directory, Key, Project, Tenant};

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOf {
    /// Only what was made after this sequence; 0 = from the first.
    pub after: u64,
    /// Range: at least 1.
    pub limit: usize,
}

/// One page; `next` asks for the one after it, absent = there was no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<u64>,
}

fn page<'a, T>(found: impl Iterator<Item = (u64, &'a T)>, limit: usize) -> Page<&'a T> {
    let mut found = found.peekable();
    let mut items = Vec::new();
    let mut last = None;
    while items.len() < limit {
        let Some((seq, item)) = found.next() else { break };
        items.push(item);
        last = Some(seq);
    }
    Page { items, next: if found.peek().is_some() { last } else { None } }
}

impl Directory {
    pub fn list_tenants(&self, want: PageOf) -> Page<&Tenant> {
        let found = self.tenants_in_order.range((Excluded(want.after), Unbounded));
        page(found.filter_map(|(seq, id)| Some((*seq, self.tenants.get(id)?))), want.limit)
    }

    pub fn list_projects(&self, tenant: TenantId, want: PageOf) -> Page<&Project> {
        let found = self
            .projects_in_order
            .range((Excluded((tenant, want.after)), Excluded((tenant, u64::MAX))));
        page(found.filter_map(|((_, seq), id)| Some((*seq, self.projects.get(id)?))), want.limit)
    }

    pub fn list_keys(&self, tenant: TenantId, want: PageOf) -> Page<&Key> {
        let found = self
            .keys_in_order
            .range((Excluded((tenant, want.after)), Excluded((tenant, u64::MAX))));
        page(found.filter_map(|((_, seq), id)| Some((*seq, self.keys.get(id)?))), want.limit)
    }
}

#[cfg(test)]
mod tests {
    use schemas::{BillingMode, ControlFact, ProjectId};
    use uuid::Uuid;

    use super::*;
    use crate::directory::evolve::tests::directory;

    #[test]
    fn pages_hold_every_item_once_and_only_of_their_tenant() {
        let tenant = |n| TenantId(Uuid::from_u128(n));
        let facts: Vec<ControlFact> = (1..=2)
            .map(|n| ControlFact::TenantCreated {
                tenant: tenant(n),
                name: n.to_string(),
                time_zone: "UTC".into(),
                billing: BillingMode::None,
            })
            // Ids go down while sequences go up: order is that of making.
            .chain((0..7).map(|n| ControlFact::ProjectCreated {
                tenant: tenant(1 + n % 2),
                project: ProjectId(Uuid::from_u128(100 - n)),
                name: n.to_string(),
            }))
            .collect();
        let found = directory(&facts);
        let mut names = Vec::new();
        let mut want = PageOf { after: 0, limit: 3 };
        loop {
            let page = found.list_projects(tenant(1), want);
            assert!(page.items.len() <= 3);
            names.extend(page.items.iter().map(|project| project.name.clone()));
            let Some(next) = page.next else { break };
            want.after = next;
        }
        assert_eq!(names, ["0", "2", "4", "6"]);
        let whole = found.list_projects(tenant(2), PageOf { after: 0, limit: 3 });
        assert_eq!(
            (whole.items.len(), whole.next),
            (3, None),
            "a page that is just full is the last"
        );
        assert_eq!(found.list_tenants(PageOf { after: 1, limit: 9 }).items.len(), 1);
        assert_eq!(found.list_keys(tenant(1), PageOf { after: 0, limit: 9 }).items.len(), 0);
    }
}
