"""A run as an entry of the OpenDP deployments registry (https://registry.opendp.org), tier 3, the highest.

The keys are those of the registry's own template. What only people know stays an empty text, and ``to_fill_in`` names
it: who the curator is, what the model is for, why these parameters were chosen.
"""

from __future__ import annotations

from typing import Any

import msgspec

from secfl.report.display import decimal, rounded_up
from secfl.report.model import Claim, RunReport

__all__ = ["registry_entry"]

_DATE = 10  # of an ISO 8601 time


def registry_entry(report: RunReport) -> RunReport:
    """The report with its ``deployment`` filled from the other records; without privacy there is none."""
    if not report.claims:
        return report
    entry = _entry(report)
    entry["to_fill_in"] = sorted(_empty("", entry))
    return msgspec.structs.replace(report, deployment=entry)


def _entry(report: RunReport) -> dict[str, Any]:
    strongest = max(report.claims, key=lambda claim: claim.epsilon or 0.0)
    return {
        "url_slug": report.run_id,
        "deployment": {
            "basic": {
                "name": report.name,
                "data_curators": [{"data_curator_name": silo.name, "data_curator_type": ""} for silo in report.silos],
                "description": "",
                "intended_use": "",
                "data_product_type": "Machine learning model",
                "data_product_region": "",
                "data_product_sector": "",
                "publication_date": report.finished[:_DATE],
            },
            "dp_variant": {
                "variant_name": "Approximate DP",
                "data_domain": f"{report.data_description}; {strongest.neighbouring_relation}",
                "unprotected_quantities": " ".join(report.not_protected),
            },
            "privacy_loss": _loss(report, strongest),
            "deployment_model": _model(report),
            "implementation": _implementation(report, strongest),
            "administrative": {
                "evidence_sources": {
                    "report": {
                        "evidence_source_type": "Report of the run",
                        "run": report.run_id,
                        "model_sha256": report.model_hash,
                        "roster_hash": report.roster_hash,
                    }
                },
                "status": "Draft",
                "registry_authors": [""],
                "tier": 3,
            },
        },
    }


def _loss(report: RunReport, claim: Claim) -> dict[str, Any]:
    return {
        "privacy_unit": claim.unit,
        "privacy_unit_details": f"{claim.neighbouring_relation}; a {claim.unit} is not a person",
        "number_of_privacy_units": report.sampling.nominal_units,
        "number_of_privacy_units_details": "declared in the configuration, not counted",
        "privacy_parameters": {"epsilon": claim.epsilon, "delta": claim.delta},
        "privacy_parameters_details": " ".join(f"{item.adversary}: {item.sentence}" for item in report.claims),
    }


def _model(report: RunReport) -> dict[str, Any]:
    local = report.privacy_mode == "local-dp-sgd"
    simulated = " All parties ran in one process: a simulation of such a deployment." if report.simulation else ""
    return {
        "model_name": "Distributed",
        "model_name_details": (
            "Federated training; each silo adds noise that is enough by itself"
            if local
            else "Federated training; each party adds a share of noise, which secure aggregation sums"
        )
        + f".{simulated}",
        "trust_assumptions": " ".join(report.protocol_promises),
        "actors": f"{len(report.silos)} silos, a server; protocol {report.protocol}, engine {report.engine}",
        "release_type": "Many releases",
        "release_type_details": "the global model after each round",
        "data_source_type": "Static",
        "data_source_type_details": "; ".join(
            f"{silo.name}: lineage {silo.lineage}{f', {silo.fingerprint}' if silo.fingerprint else ''}"
            for silo in report.silos
        ),
        "access_type": "Non-interactive",
        "access_type_details": "the final model is handed out whole",
    }


def _implementation(report: RunReport, claim: Claim) -> dict[str, Any]:
    mechanism, sampling = report.mechanism, report.sampling
    metric = report.evaluation
    return {
        "preprocessing_and_hyperparameter_tuning": "",
        "mechanisms": (
            f"{report.privacy_mode}: clipping to L2 norm {_number(mechanism.clip_norm)}, noise multiplier "
            f"{_number(mechanism.noise_multiplier)} (floor {_number(mechanism.floor_multiplier)}); "
            f"{mechanism.noise_source}. Sampling: {sampling.scheme}, rate {decimal(sampling.rate)}, "
            f"{sampling.steps_per_round} steps a round, {sampling.rounds_planned} rounds; {sampling.amplification}."
        ),
        "composition": f"{claim.accountant}; one ledger for the life of each silo's records, signed and hash-chained",
        "post_processing": "server optimiser on the released sums",
        "justification": "",
        "utility": "nothing was evaluated"
        if metric.value is None
        else f"{metric.metric} {metric.value:.4g} on {metric.records}",
        "additional_information": "secfl " + report.versions.get("secfl", ""),
    }


def _number(value: float | None) -> str:
    return "none" if value is None else rounded_up(value)


def _empty(path: str, value: Any) -> list[str]:
    """Places of the empty texts."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _empty(f"{path}.{key}".lstrip("."), item)]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _empty(f"{path}[{index}]", item)]
    return [path] if value == "" else []
