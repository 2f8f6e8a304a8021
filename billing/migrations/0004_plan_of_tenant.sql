-- The plan of the subscription that decided a tenant's access, as it was last decided; keys carry it to the nodes.
alter table tenant add column plan text;
