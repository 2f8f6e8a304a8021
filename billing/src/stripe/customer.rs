//! Customers: made once a tenant, and read again.

use std::collections::HashMap;

use schemas::TenantId;
use stripe_core::customer::{CreateCustomer, RetrieveCustomer, RetrieveCustomerReturned};

use super::{Client, StripeError};

/// The metadata entry by which everything that we make at Stripe names its tenant.
pub const TENANT: &str = "tenant";

/// A customer as Stripe has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub deleted: bool,
    /// What its metadata says of the tenant; whatever is no tenant's id counts as nothing.
    pub tenant: Option<TenantId>,
}

/// Makes the customer of a tenant; asked again within a day it gives the same one. `email` = where invoices are sent.
///
/// A server error that Stripe has stored under the tenant's key would come back for that day, so it is asked once
/// more under another key. Should the first have made a customer after all, that one is never used or billed.
///
/// # Errors
/// See [`StripeError`].
pub async fn create(
    stripe: &Client,
    tenant: TenantId,
    email: Option<&str>,
) -> Result<String, StripeError> {
    let metadata = HashMap::from([(TENANT.to_owned(), tenant.to_string())]);
    let mut request = CreateCustomer::new().metadata(metadata).description(tenant.to_string());
    if let Some(email) = email {
        request = request.email(email);
    }
    let key = format!("tb1:customer:{tenant}");
    let made = match stripe.post(&request, &key).await {
        Err(StripeError::Api(error)) if error.status.is_server_error() => {
            stripe.post(&request, &format!("{key}#{}", uuid::Uuid::now_v7().simple())).await
        }
        made => made,
    };
    Ok(made?.id.to_string())
}

/// Reads a customer; `None` = Stripe knows none by this id.
///
/// # Errors
/// See [`StripeError`].
pub async fn read(stripe: &Client, customer: &str) -> Result<Option<Found>, StripeError> {
    match stripe.get(&RetrieveCustomer::new(customer)).await {
        Ok(RetrieveCustomerReturned::DeletedCustomer(_)) => {
            Ok(Some(Found { deleted: true, tenant: None }))
        }
        Ok(RetrieveCustomerReturned::Customer(customer)) => {
            let tenant =
                customer.metadata.as_ref().and_then(|metadata| metadata.get(TENANT)?.parse().ok());
            Ok(Some(Found { deleted: false, tenant }))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
