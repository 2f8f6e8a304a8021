//! The configuration files of a private ClickHouse: one text for the server and for the engine.
//!
//! Sized for two small cores: 2 GiB at most, two merge threads (a server wants the numbers of free
//! pool entries below the pool's size, or refuses to start). `default` must exist without a
//! password, since the engine's own connection is made as `default`; it may open the HTTP interface
//! and read one table of numbers, and nothing else. The project's own user may do everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{StackError, at};

/// The project's user.
pub(crate) const USER: &str = "tollbook";

/// What the files depend on.
pub(crate) struct Config<'a> {
    pub part: &'a str,
    /// Absolute: the engine joins a relative one to itself.
    pub data: &'a Path,
    pub port: u16,
    pub password: &'a str,
}

impl Config<'_> {
    /// Writes `config.xml` and `users.xml` into `home`, readable by their owner only, and what a
    /// first start needs into the data folder.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, home: &Path) -> Result<(), StackError> {
        let users = home.join("users.xml");
        self.put(&home.join("config.xml"), &self.server(&users))?;
        self.put(&users, &self.users())?;
        // Makes the system database one that is stored: the engine's own, in memory, cannot reopen
        // its log tables at the second start.
        let metadata = self.data.join("metadata");
        fs::create_dir_all(&metadata).map_err(at(self.part, "create", &metadata))?;
        let system = metadata.join("system.sql");
        if system.exists() {
            return Ok(());
        }
        self.put(
            &system,
            "ATTACH DATABASE _ UUID '5ad0e1c2-7c1f-4d0e-9b5e-3f6d2a84c701' ENGINE = Atomic\n",
        )
    }

    fn put(&self, file: &Path, text: &str) -> Result<(), StackError> {
        fs::write(file, text).map_err(at(self.part, "write", file))?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))
            .map_err(at(self.part, "close", file))
    }

    fn server(&self, users: &Path) -> String {
        let (data, users) = (escaped(self.data), escaped(users));
        let port = self.port;
        format!(
            "<clickhouse>
  <logger><level>warning</level><console>1</console></logger>
  <log-level>warning</log-level>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <path>{data}/</path>
  <tmp_path>{data}/tmp/</tmp_path>
  <user_files_path>{data}/user_files/</user_files_path>
  <format_schema_path>{data}/format_schemas/</format_schema_path>
  <users_config>{users}</users_config>
  <timezone>UTC</timezone>
  <max_server_memory_usage>2147483648</max_server_memory_usage>
  <mark_cache_size>67108864</mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <max_concurrent_queries>100</max_concurrent_queries>
  <background_pool_size>2</background_pool_size>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <merge_tree>
    <old_parts_lifetime>480</old_parts_lifetime>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
</clickhouse>
"
        )
    }

    fn users(&self) -> String {
        let hash = hex::encode(Sha256::digest(self.password));
        format!(
            "<clickhouse>
  <profiles><default/></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants>
        <query>GRANT SYSTEM LISTEN ON *.*</query>
        <query>GRANT SELECT ON system.numbers</query>
      </grants>
    </default>
    <{USER}>
      <password_sha256_hex>{hash}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <grants><query>GRANT ALL ON *.*</query></grants>
    </{USER}>
  </users>
</clickhouse>
"
        )
    }
}

fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
