"""The words of tables and sheets in English and Chinese, and how a number is shown there."""

from __future__ import annotations

from typing import Literal

from utils.metrics.metric import load_metric

Language = Literal["en", "zh"]

# The only place with text that is not ASCII: what a Chinese reader sees as column names.
_LABELS: dict[str, tuple[str, str]] = {
    "task": ("task", "任务"),
    "task_type": ("task type", "任务类型"),
    "method": ("method", "方法"),
    "seed": ("seed", "随机种子"),
    "status": ("status", "状态"),
    "best_metric": ("best metric", "最佳指标"),
    "best_score": ("best score (%)", "最佳得分(%)"),
    "best_value": ("best value", "最佳值"),
    "best_step": ("best step", "最佳步数"),
    "interval_low": ("95% interval, low", "95%区间下限"),
    "interval_high": ("95% interval, high", "95%区间上限"),
    "interval": ("95% interval", "95%区间"),
    "baseline": ("baseline", "基线"),
    "majority": ("majority baseline", "多数类基线"),
    "best_accuracy": ("best accuracy (%)", "最佳准确率(%)"),
    "last": ("last", "最后一步"),
    "trainable": ("trainable parameters", "可训练参数"),
    "total": ("total parameters", "总参数"),
    "trainable_percent": ("trainable share (%)", "可训练参数占比(%)"),
    "trainable_percent_packed": ("trainable share, packed (%)", "可训练参数占比,压缩后(%)"),
    "device": ("device", "设备"),
    "peak_vram": ("peak GPU memory (GB)", "显存峰值(GB)"),
    "peak_vram_reserved": ("peak GPU memory reserved (GB)", "显存保留峰值(GB)"),
    "peak_rss": ("peak RAM (GB)", "内存峰值(GB)"),
    "peak_memory": ("peak memory", "内存峰值"),
    "allocated": ("allocated", "已分配"),
    "reserved": ("reserved", "已保留"),
    "resident": ("RAM", "内存"),
    "train_runtime": ("training time (s)", "训练时间(秒)"),
    "time_to_first_step": ("time to first step (s)", "首步时间(秒)"),
    "samples_per_s": ("samples/s", "样本/秒"),
    "tokens_per_s": ("tokens/s", "词元/秒"),
    "total_time": ("total time (s)", "总时间(秒)"),
    "train_rows": ("training rows", "训练样本数"),
    "eval_rows": ("evaluation rows", "评估样本数"),
    "truncated_rows": ("truncated rows", "截断样本数"),
    "dropped_rows": ("dropped rows", "丢弃样本数"),
    "set": ("set", "评测集"),
    "metric": ("metric", "指标"),
    "score": ("score", "得分"),
    "rows": ("rows", "样本数"),
    "protocol": ("protocol", "评测方式"),
    "partial": ("partial", "部分样本"),
    "key": ("key", "键"),
    "value": ("value", "值"),
    "result": ("Result", "结果"),
    "next": ("Next:", "接下来:"),
    "warnings": ("warnings", "警告"),
    "success": ("success", "成功"),
    "interrupted": ("interrupted", "已中断"),
    "failed": ("failed", "失败"),
}

_NOT_SCORES = frozenset({"loss", "perplexity", "runtime", "seconds"})


def translate(key: str, language: Language) -> str:
    """Give the label of a key in a language."""
    return _LABELS[key][1 if language == "zh" else 0]


def is_score(name: str) -> bool:
    """Tell whether a quantity is a score of 0 to 1 (or -1 to 1), which tables show x100."""
    name = name.removesuffix("_mm")  # mismatched MNLI
    try:
        return load_metric(name).high <= 1
    except KeyError:
        return name not in _NOT_SCORES and not name.endswith(("_loss", "_s", "_seconds"))


def scale(name: str, value: float) -> float:
    """Give a quantity as tables show it: scores x100, all else as it is."""
    return value * 100 if is_score(name) else value
