//! What a child sees on its piggy bank (PC-14): as the cloud knew it when it was said.

use schemas::ids::{MessageId, Principal};
use schemas::message::{ChildView, ComingAllowance, ComingAllowances, Down, ShownResults, ShownWishes};
use schemas::time::Timestamp;
use schemas::topic::Kind;

use super::wish;
use crate::books::Role;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::limits;
use crate::registry::Standing;

/// The piggy bank that shows a child what it has. A revoked one will never fetch that (correctness.md 20).
pub(super) fn screen_of(cloud: &Cloud, child: &Principal) -> Option<Principal> {
    let id = cloud.registry.child(child)?.bonds.piggy_bank.clone()?;
    let piggy_bank = Principal { tenant: child.tenant.clone(), id };
    let device = cloud.registry.device(&piggy_bank)?;
    (device.standing != Standing::Revoked).then_some(piggy_bank)
}

/// Owes the child's piggy bank the newest view; older ones that nobody has fetched are withdrawn.
pub(crate) fn show(cloud: &Cloud, child: &Principal, now: Timestamp, out: &mut Decision) {
    let Some((found, piggy_bank)) = cloud.registry.child(child).zip(screen_of(cloud, child)) else { return };
    let Some(currency) = cloud.registry.tenant(&child.tenant).map(|tenant| tenant.currency) else { return };
    let available = cloud.ledger.available(Role::Person(child).account(&child.tenant)).unwrap_or_default();
    let coming = found.allowances.iter().map(|(guardian, allowance)| ComingAllowance {
        guardian: guardian.clone(),
        amount: allowance.schedule.amount,
        every: allowance.schedule.every,
        next_at: allowance.next_at,
    });
    let view = ChildView {
        child: child.id.clone(),
        available: currency.minor(available),
        as_of: now,
        goals: found.goals.clone(),
        allowances: ComingAllowances::new(coming.collect()).unwrap_or_default(),
        wishes: (!found.wishes.is_empty()).then(|| {
            let wishes = found.wishes.iter().take(schemas::limits::SHOWN_WISHES);
            ShownWishes::new(wishes.map(|(id, wish)| wish::shown(id, wish)).collect()).unwrap_or_default()
        }),
        results: (!found.results.is_empty())
            .then(|| ShownResults::new(found.results.iter().cloned().collect()).unwrap_or_default()),
    };
    for older in cloud.outbox.messages(&piggy_bank).filter(|owed| owed.kind == Kind::ChildView) {
        out.withdraw(&piggy_bank, older.message, "superseded");
    }
    // Each is a message of its own: the acknowledgement of an older one must not clear a newer one.
    let sequence = cloud.outbox.last_sequence().to_be_bytes();
    let id = MessageId::derived("child-view", &[child.to_string().as_bytes(), &sequence]);
    out.owe(cloud, &piggy_bank, id, Down::ChildView(view), now.plus_ms(limits::STATUS_LIFE_MS));
}
