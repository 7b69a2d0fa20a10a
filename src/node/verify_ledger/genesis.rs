//! Which genesis a folder is verified against, and whether the folder is that chain's.

use std::path::Path;

use hufu_storage::data_dir::DataDir;
use hufu_types::Genesis;

use super::{Part, Report, VerifyError};
use crate::genesis_copy::{self, GENESIS_COPY};

/// Name of the identity file, for messages.
const IDENTITY: &str = "identity file";

/// The genesis given, or the folder's copy if its hash is the chain that the identity names.
pub(super) fn find(
    folder: &Path,
    given: Option<Genesis>,
    report: &mut Report,
) -> Result<Genesis, VerifyError> {
    let copy = genesis_copy::read(folder)
        .map_err(|cause| VerifyError::Host { what: format!("read {GENESIS_COPY}"), cause })?;
    let identity = match DataDir::identity_of(folder) {
        Ok(identity) => Some(identity),
        Err(
            error @ (hufu_storage::Error::IdentityDamaged { .. }
            | hufu_storage::Error::IdentityMissing { .. }),
        ) => {
            report.fault(Part::Identity, IDENTITY, error);
            None
        }
        Err(error) => return Err(error.into()),
    };
    let found = identity.map(|identity| identity.chain);
    let genesis = match (given, copy) {
        (Some(genesis), copy) => {
            if copy.is_some_and(|copy| copy != genesis.to_bytes()) {
                report.fault(Part::Identity, GENESIS_COPY, "differs from the genesis given");
            }
            genesis
        }
        (None, None) => return Err(VerifyError::GenesisMissing(folder.to_path_buf())),
        (None, Some(copy)) => {
            let parsed = Genesis::parse(&copy).ok();
            let parsed =
                parsed.filter(|genesis| found.is_none_or(|chain| chain == genesis.chain_id().0));
            parsed.ok_or_else(|| VerifyError::GenesisDamaged(folder.to_path_buf()))?
        }
    };
    if let Some(found) = found.filter(|found| *found != genesis.chain_id().0) {
        let (found, given) = (found.to_string(), genesis.chain_id().to_string());
        return Err(VerifyError::OtherChain { folder: folder.to_path_buf(), found, given });
    }
    if let Some(identity) = identity
        && genesis.validators.get(&identity.node).is_none()
    {
        let what = format!("node {} is no validator of the genesis", identity.node);
        report.fault(Part::Identity, IDENTITY, what);
    }
    Ok(genesis)
}
