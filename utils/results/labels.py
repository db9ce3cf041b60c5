"""Labels of tables and sheets in English and Chinese, and the scale of their numbers."""

from __future__ import annotations

import unicodedata
from typing import Literal

from utils.metrics.metric import load_metric

Language = Literal["en", "zh"]

# With `sentences`, the only non-ASCII text of the library: what Chinese readers see.
_LABELS: dict[str, tuple[str, str]] = {
    "dataset": ("dataset", "数据集"),
    "task": ("task", "任务"),
    "at the majority baseline": ("at the majority baseline", "不高于多数类基线"),
    "": ("", ""),
    "no finished run has measured it": ("no finished run has measured it", "没有已完成的运行测量过"),
    "not the same in all runs: their data differ": (
        "not the same in all runs: their data differ",
        "各次运行的数据不同, 该值也不同",
    ),
    "far below the other seeds": ("far below the other seeds", "远低于其他种子"),
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
    "best": ("best", "最佳"),
    "best_combined": ("at the best combined score", "综合得分最佳时"),
    "chosen_by": ("chosen by", "选择依据"),
    "step": ("step", "步数"),
    "retention": ("kept of the base", "保留能力"),
    "combined": ("combined", "总分"),
    "not_scored": ("not scored", "未评分"),
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
    "row": ("row", "样本"),
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
    "timed out": ("timed out", "超时"),
    "running": ("running", "运行中"),
    "missing": ("missing", "缺失"),
    "peak_memory_gb": ("peak memory (GB)", "显存峰值(GB)"),
    "loss": ("loss", "Loss"),
    "f1": ("F1", "F1"),
    "matthews_correlation": ("Matthews", "Matthews相关系数"),
    "pearson": ("Pearson", "Pearson相关系数"),
    "spearmanr": ("Spearman", "Spearman相关系数"),
    "task_metric": ("task metric", "任务指标"),
    "task_metric_best": ("task metric, best", "任务指标,最佳"),
    "task_metric_last": ("task metric, last", "任务指标,最后一步"),
    "interval_over": ("interval over", "区间依据"),
    "mean": ("mean", "平均值"),
    "deviation": ("sample standard deviation", "样本标准差"),
    "num_seeds": ("n (seeds)", "n(随机种子数)"),
    "epochs": ("epochs", "训练轮数"),
    "seeds": ("seeds", "随机种子"),
    "run": ("run", "运行"),
    "note": ("note", "备注"),
    "average": ("average", "平均"),
    "summary": ("summary", "汇总"),
    "charts": ("charts", "图表"),
    "configuration": ("configuration", "配置"),
    "provenance": ("provenance", "来源"),
    "ram": ("RAM", "内存"),
    "vram": ("GPU", "显存"),
    "varies": ("(varies)", "(不同)"),
    "num_runs": ("runs", "运行数"),
    "tasks_done": ("tasks done", "已完成任务"),
    "runs_done": ("runs done", "已完成运行"),
    "partial_runs": ("scored on a part of the rows", "仅在部分评估样本上评分"),
    "mean_accuracy": ("mean accuracy (%)", "平均准确率(%)"),
    "mean_share": ("mean trainable share (%)", "平均可训练参数占比(%)"),
    "mean_memory": ("mean peak memory (GB)", "平均显存峰值(GB)"),
    "largest_memory": ("largest peak memory (GB)", "最大显存峰值(GB)"),
    "compared_with": ("compared with", "对比"),
    "difference": ("difference", "差值"),
    "common_seeds": ("common seeds", "共同随机种子"),
    "finding": ("finding", "结论"),
    "over_rows": ("rows", "评估样本"),
    "over_seeds": ("seeds", "随机种子"),
    "scores": ("scores", "得分"),
    "score_by_method": ("score by method", "各方法得分"),
    "score_by_share": ("score against trainable share", "得分与可训练参数占比"),
    "score_by_memory": ("score against peak memory", "得分与显存峰值"),
    "score_axis": ("score x100", "得分 x100"),
    "average_axis": ("average score x100", "平均得分 x100"),
    "series": ("series", "系列"),
    "points": ("costs and score", "开销与得分"),
    "better": ("better", "更好"),
    "worse": ("worse", "更差"),
    "not told apart": ("not told apart", "无法区分"),
    "no claim": ("no claim", "不作结论"),
    "accuracies": ("accuracies", "准确率"),
    "as_it_is": ("as it is", "原值"),
    "asked": ("asked", "输入"),
    "answered": ("answered", "模型回答"),
    "expected": ("expected", "参考答案"),
    "answers": ("Answers", "回答示例"),
    "first_rows": ("first rows", "前几行"),
    "mistakes": ("rows that were answered wrongly", "答错的样本"),
    "class": ("class", "类别"),
    "classes": ("scores of each class", "各类别得分"),
    "combined_score": ("combined score", "总分"),
    "command": ("command", "命令"),
    "commit": ("commit", "提交"),
    "confusion": ("confusion matrix: rows are labels, columns predictions", "混淆矩阵: 行为标签, 列为预测"),
    "curves": ("Curves", "曲线"),
    "data": ("Data", "数据"),
    "split": ("split", "划分"),
    "longest": ("longest (tokens)", "最长(词元)"),
    "typical": ("median (tokens)", "中位数(词元)"),
    "environment": ("Environment", "环境"),
    "evaluation": ("evaluation", "评估"),
    "training_loss": ("training loss, mean of the seeds", "训练Loss, 随机种子平均"),
    "training": ("training", "训练"),
    "grad_norm": ("gradient norm", "梯度范数"),
    "hardware": ("hardware", "硬件"),
    "learning_rate": ("learning rate", "学习率"),
    "platform": ("platform", "系统"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "report": ("Report", "报告"),
    "right": ("right", "正确"),
    "wrong": ("wrong", "错误"),
    "reward": ("reward", "奖励"),
    "rewards": ("rewards", "奖励"),
    "runs": ("Runs", "运行"),
    "scores_of_sets": ("Scores", "得分"),
    "differences": ("Differences", "差异"),
    "notes": ("Notes", "说明"),
    "smoothed": ("smoothed", "平滑"),
    "setting": ("setting", "设置"),
    "software": ("software", "软件版本"),
    "started": ("started", "开始时间"),
    "all_settings": ("all settings of this run", "本次运行的全部设置"),
    "kind_of_rows": ("kind of rows", "样本类别"),
    "category": ("category", "类别"),
    "same_in_all": ("the same in all runs", "全部运行相同"),
    "plan_params": ("parameters", "参数"),
    "memory": ("memory", "内存"),
    "num_steps": ("steps", "步数"),
    "memory_weights": ("  weights", "  权重"),
    "memory_gradients": ("  gradients", "  梯度"),
    "memory_optimizer": ("  optimizer", "  优化器"),
    "memory_step": ("  step", "  单步"),
    "longest_batch": ("longest batch", "最长批次"),
    "time": ("time", "时间"),
    "training_rows": ("rows", "数据行"),
    "ok": ("ok", "通过"),
    "FAIL": ("FAIL", "未通过"),
    "warning": ("warning", "警告"),
    "warning_here": ("warning (this machine)", "警告(本机)"),
}

_NOT_SCORES = frozenset(
    {"loss", "perplexity", "runtime", "seconds", "kl", "entropy", "reward", "reward_std", "grad_norm", "margin",
     "mean_reward", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"}
)  # fmt: skip


def translate(key: str, language: Language) -> str:
    """Return the label of a key in a language."""
    return _LABELS[key][1 if language == "zh" else 0]


def count_columns(text: str) -> int:
    """Count the columns of a text in a fixed-width font; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def is_score(name: str) -> bool:
    """Return whether a quantity is a score from 0 (or -1) to 1, which tables show x100."""
    name = name.removesuffix("_mm")  # mismatched MNLI
    try:
        return load_metric(name).high <= 1
    except KeyError:
        if "/" in name:  # TRL's groups: rewards/margins, logps/chosen, rewards/accuracies
            return name.endswith("/accuracies")
        return name not in _NOT_SCORES and not name.endswith(("_loss", "_s", "_seconds"))


def scale(name: str, value: float) -> float:
    """Return a quantity as tables show it: scores x100, others unchanged."""
    return value * 100 if is_score(name) else value
