//! What all seeds share: a genesis, the validators' keys, and transactions signed once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use hufu_crypto::{
    Provider, Signer as _, SoftwareSigner, Verdict, Verifier, VerifyItem, software_provider,
};
use hufu_types::operation::{AccountBody, CreateAssetBody, SupplyBody};
use hufu_types::{
    Address, AssetCode, ChainId, Digest, Genesis, Leg, Operation, Parameters, PublicKey, Signature,
    Transaction, TransactionBuilder, Validator, ValidatorSet,
};
use zerocopy::little_endian::U128;

use crate::random::Random;

/// Transactions of the pool behind the two that set up accounts and assets, count.
const TRANSFERS_COUNT: u64 = 220;

const ACCOUNTS_COUNT: u8 = 8;

/// Verdicts remembered beyond those of the pool, count; all are forgotten when it is full.
const VERDICTS_COUNT_MAX: usize = 1 << 16;

/// The seed of the pool: the same transactions in every run.
const POOL_SEED: u64 = 0x6875_6675;

/// The material cannot be made: a bug of the simulator.
#[derive(Debug, thiserror::Error)]
#[error("material: {0}")]
pub struct MaterialError(String);

type Claim = (PublicKey, Digest, Signature);

/// Asks the real verifier once for each distinct claim and repeats what it said.
struct Remembering {
    real: Arc<dyn Verifier>,
    said: Mutex<HashMap<Claim, Verdict>>,
    /// Made by a signer that verified them in software, as signers do.
    signed: Mutex<HashSet<Claim>>,
}

impl Remembering {
    fn verdict(&self, item: &VerifyItem<'_>) -> Verdict {
        let claim = (*item.key, item.digest, *item.signature);
        if self.signed.lock().unwrap_or_else(PoisonError::into_inner).contains(&claim) {
            return Verdict::Valid;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = said.get(&claim) {
            return *verdict;
        }
        let verdict = self.real.verify(*item);
        if said.len() >= VERDICTS_COUNT_MAX {
            said.clear();
        }
        said.insert(claim, verdict);
        verdict
    }
}

impl Verifier for Remembering {
    fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
        for (item, verdict) in items.iter().zip(verdicts) {
            *verdict = self.verdict(item);
        }
    }
}

/// See the module. One for each thread that runs seeds.
pub struct Material {
    pub(crate) genesis: Genesis,
    pub(crate) chain_id: ChainId,
    pub(crate) provider: Provider,
    /// By ascending address: a node's place is its validator's bit in headers.
    signers: Vec<SoftwareSigner>,
    verifier: Arc<Remembering>,
    /// Opens the accounts, creates the asset and issues it: to be done in this order.
    pub(crate) setup: Vec<Transaction>,
    pub(crate) transfers: Vec<Transaction>,
}

fn signer(kind: u8, number: u8) -> Result<SoftwareSigner, MaterialError> {
    let mut scalar = [kind; 32];
    scalar[31] = number + 1;
    // A seed must give the same run, signatures included.
    SoftwareSigner::repeatable(&scalar).map_err(|error| MaterialError(error.to_string()))
}

impl Material {
    /// The material of a chain of `nodes` validators.
    ///
    /// # Errors
    /// If there are too many.
    pub fn new(nodes: usize) -> Result<Self, MaterialError> {
        let fault = |cause: &dyn core::fmt::Display| MaterialError(cause.to_string());
        let count = u8::try_from(nodes).map_err(|error| fault(&error))?;
        let mut signers = Vec::new();
        for number in 0..count {
            signers.push(signer(7, number)?);
        }
        signers.sort_by_key(|signer| signer.public_key().address());
        let mut links = Vec::new();
        for number in 0..count {
            links.push(*signer(6, number)?.public_key());
        }
        let validators = signers.iter().enumerate().map(|(place, signer)| Validator {
            name: format!("v{place}"),
            key: *signer.public_key(),
            link_key: links[place],
            power: 1,
        });
        let set = ValidatorSet::new(validators.collect()).map_err(|error| fault(&error))?;
        let (opener, issuer) = (signer(8, 0)?, signer(8, 1)?);
        let address = |signer: &SoftwareSigner| signer.public_key().address();
        let parameters = Parameters {
            certified_lag_heights: 1,
            block_interval_millis: 150,
            state_buckets_log2: 4,
        };
        let (openers, issuers) = (vec![address(&opener)], vec![address(&issuer)]);
        let genesis =
            Genesis::new("simulation".into(), 1_000_000, parameters, set, openers, issuers)
                .map_err(|error| fault(&error))?;
        let real = software_provider();
        let verifier = Arc::new(Remembering {
            real: real.verifier.clone(),
            said: Mutex::default(),
            signed: Mutex::default(),
        });
        let provider = Provider { verifier: verifier.clone(), ..real };
        let chain_id = genesis.chain_id();
        let (setup, transfers) = transactions(chain_id, &opener, &issuer)?;
        Ok(Self { genesis, chain_id, provider, signers, verifier, setup, transfers })
    }

    /// Validators, count.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.signers.len()
    }

    pub(crate) fn key(&self, place: usize) -> &PublicKey {
        self.signers[place].public_key()
    }

    pub(crate) fn address(&self, place: usize) -> Address {
        self.key(place).address()
    }

    pub(crate) fn place(&self, address: &Address) -> Option<usize> {
        self.signers.iter().position(|signer| signer.public_key().address() == *address)
    }

    /// Signs a consensus message with the vote key of a node.
    pub(crate) fn sign(&self, place: usize, message: &[u8]) -> Option<Signature> {
        let signer = &self.signers[place];
        let key = signer.public_key();
        let digest = hufu_types::vote::signing_digest(message, key);
        let signature = signer.sign(&digest).ok()?;
        let mut signed = self.verifier.signed.lock().unwrap_or_else(PoisonError::into_inner);
        signed.insert((*key, digest, signature));
        Some(signature)
    }

    /// Forgets what only the last seed needed.
    pub(crate) fn forget(&self) {
        self.verifier.signed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn transactions(
    chain_id: ChainId,
    opener: &SoftwareSigner,
    issuer: &SoftwareSigner,
) -> Result<(Vec<Transaction>, Vec<Transaction>), MaterialError> {
    let mut random = Random::stream(POOL_SEED, "pool");
    let mut people = Vec::new();
    for number in 0..ACCOUNTS_COUNT {
        people.push(signer(9, number)?);
    }
    let asset = AssetCode::new("USD").ok_or_else(|| MaterialError("asset".into()))?;
    let address = |place: usize| people[place].public_key().address();
    let create = CreateAssetBody::new(asset, issuer.public_key().address(), 2, 1 << 60);
    let accounts: Vec<AccountBody> =
        (0..people.len()).map(|place| AccountBody { address: address(place) }).collect();
    let supplies: Vec<SupplyBody> = (0..people.len())
        .map(|place| SupplyBody { asset, account: address(place), amount: U128::new(1_000) })
        .collect();
    let open: Vec<Operation<'_>> = accounts.iter().map(Operation::OpenAccount).collect();
    let issue: Vec<Operation<'_>> = core::iter::once(Operation::CreateAsset(&create))
        .chain(supplies.iter().map(Operation::IssueAsset))
        .collect();
    let setup =
        vec![sign(chain_id, opener, 1, 600, &open)?, sign(chain_id, issuer, 1, 600, &issue)?];
    let mut transfers = Vec::new();
    for nonce in 0..TRANSFERS_COUNT {
        let from = random.index(people.len());
        let to = (from + 1 + random.index(people.len() - 1)) % people.len();
        let amount = U128::new(random.between(1, 400).into());
        let leg = Leg { asset, from: address(from), to: address(to), amount };
        // Some live so shortly that they may expire on the way.
        let valid_until = if random.chance(150) { random.between(6, 40) } else { 600 };
        let operation = Operation::Transfer(&leg);
        transfers.push(sign(chain_id, &people[from], nonce, valid_until, &[operation])?);
    }
    Ok((setup, transfers))
}

fn sign(
    chain_id: ChainId,
    signer: &SoftwareSigner,
    nonce: u64,
    valid_until: u64,
    operations: &[Operation<'_>],
) -> Result<Transaction, MaterialError> {
    let key = *signer.public_key();
    let builder = TransactionBuilder::new(chain_id, key, nonce, valid_until);
    let builder = operations.iter().fold(builder, |builder, one| builder.operation(*one));
    let unsigned = builder.unsigned();
    let digest = TransactionBuilder::signing_digest(&unsigned, &key);
    let signature = signer.sign(&digest).map_err(|error| MaterialError(error.to_string()))?;
    TransactionBuilder::join(unsigned, &signature).map_err(|error| MaterialError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_repeats_what_the_real_one_says_and_nothing_else() {
        let material = Material::new(4).unwrap();
        let message = b"vote";
        let (key, other) = (*material.key(0), *material.key(1));
        let signature = material.sign(0, message).unwrap();
        let digest = hufu_types::vote::signing_digest(message, &key);
        let wrong_digest = hufu_types::vote::signing_digest(b"another", &key);
        let mut spoilt = signature;
        spoilt.0[63] ^= 1;
        let claims = [
            (key, digest, signature),
            (key, digest, spoilt),
            (key, wrong_digest, signature),
            (other, digest, signature),
            (PublicKey([1; 64]), digest, signature),
        ];
        let real = software_provider().verifier;
        for _time in 0..2 {
            for (key, digest, signature) in &claims {
                let item = VerifyItem { key, digest: *digest, signature };
                assert_eq!(material.provider.verifier.verify(item), real.verify(item));
            }
            material.forget();
        }
    }

    #[test]
    fn every_material_is_the_same() {
        let (first, second) = (Material::new(4).unwrap(), Material::new(4).unwrap());
        assert_eq!(first.chain_id, second.chain_id);
        assert_eq!(first.transfers, second.transfers);
        let signed = first.transfers.iter().chain(&first.setup).cloned().collect();
        let verdicts = hufu_types::verify_transactions(&first.provider, first.chain_id, signed);
        assert!(verdicts.iter().all(Result::is_ok), "the pool is signed well");
    }
}
