"""The lab's settings: `lab.toml` in the lab's root, validated."""

from autoresearch_mcp.server.settings.compute import ComputeSection
from autoresearch_mcp.server.settings.live import SettingsFile
from autoresearch_mcp.server.settings.loading import load
from autoresearch_mcp.server.settings.metric import Guard, MetricSection
from autoresearch_mcp.server.settings.model import (
    SCHEMA,
    BudgetSection,
    EmbeddingsSection,
    LabSection,
    LakeSection,
    LaunchSettings,
    Settings,
    physical_cores,
)
from autoresearch_mcp.server.settings.new_lab import SCRIPT_BUDGET_S, OwnCode, template
from autoresearch_mcp.server.settings.profile import ProfileSection
from autoresearch_mcp.server.settings.promotion import PromotionSection
from autoresearch_mcp.server.settings.scorer import ScorerSection
from autoresearch_mcp.server.settings.slurm import SlurmSection
from autoresearch_mcp.server.settings.swarm import SwarmSection
from autoresearch_mcp.server.settings.training import Training

__all__ = [
    "SCHEMA",
    "SCRIPT_BUDGET_S",
    "BudgetSection",
    "ComputeSection",
    "EmbeddingsSection",
    "Guard",
    "LabSection",
    "LakeSection",
    "LaunchSettings",
    "MetricSection",
    "OwnCode",
    "ProfileSection",
    "PromotionSection",
    "ScorerSection",
    "Settings",
    "SettingsFile",
    "SlurmSection",
    "SwarmSection",
    "Training",
    "load",
    "physical_cores",
    "template",
]
