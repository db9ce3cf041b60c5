"""Labels and sentences of tables and sheets in English and Chinese, and the scale of their numbers."""

from __future__ import annotations

import unicodedata
from typing import Literal

from utils.metrics.metric import load_metric

Language = Literal["en", "zh"]

# The only non-ASCII text of the library: what Chinese readers see.
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

# Sentences, with fields in braces.
_SENTENCES: dict[str, tuple[str, str]] = {
    "average_of": ("average of {tasks} tasks", "{tasks}个任务的平均"),
    "runs_of": ("{done} of {planned} runs", "{planned}次运行中的{done}次"),
    "mean_of": (
        "mean of {rows} of {planned} table rows, {runs}",
        "表中{planned}行里{rows}行的平均, {runs}",
    ),
    "pearson_in": ("Pearson x100 for {tasks}", "{tasks}为Pearson x100"),
    "seed_status": ("seed {seed}: {status}", "种子{seed}: {status}"),
    "without": ("no result on {tasks}", "{tasks}没有结果"),
    "scale": (
        "Scores (accuracy, F1, Matthews, Pearson, Spearman and the like) are shown x100.",
        "得分(准确率, F1, Matthews, Pearson, Spearman等)均乘以100.",
    ),
    "chosen": (
        "Best is of the checkpoint that the task metric chose on these same evaluation rows; last is of the last step.",
        "最佳为按任务指标在同一评估集上选出的检查点; 最后一步为训练结束时的权重.",
    ),
    "pearson_mark": (
        "* Pearson's correlation x100, in the place of an accuracy that the task does not have.",
        "* 该任务没有准确率, 此处为Pearson相关系数x100.",
    ),
    "ram_mark": (
        "RAM: without a GPU the peak is that of the process's resident memory; otherwise it is allocated GPU memory.",
        "内存: 未使用GPU时为进程的内存峰值; 否则为已分配显存的峰值.",
    ),
    "mixed_kinds": (
        "A best accuracy or peak memory that mixes kinds over seeds (accuracy and Pearson, GPU and RAM) is left empty.",
        "若不同种子的最佳准确率或内存峰值种类不同(准确率与Pearson, 显存与内存), 则留空.",
    ),
    "over_several": (
        "With several seeds a figure is the mean over those with a result; n counts them.",
        "有多个随机种子时, 数值为有结果的种子的平均值; n为其个数.",
    ),
    "intervals": (
        "95% interval over rows: bootstrap of the one run's evaluation rows; over seeds: Student's t of the mean.",
        "95%区间: 依据评估样本时为单次运行评估样本的自助法; 依据随机种子时为平均值的t区间.",
    ),
    "average_mix": (
        "Averages count each task once ({tasks}).{metrics}{accuracy}",
        "平均值中每个任务计一次({tasks}).{metrics}{accuracy}",
    ),
    "metric_mix": (" The task metric's average mixes {metrics}.", " 任务指标的平均混合了{metrics}."),
    "accuracy_mix": (
        " The average of best accuracy mixes accuracy with Pearson x100 ({tasks}).",
        " 最佳准确率的平均混合了准确率与Pearson x100({tasks}).",
    ),
    "no_average": (
        "{setting}: no average, since it has no result on {tasks}.",
        "{setting}: 没有平均值, 因为{tasks}没有结果.",
    ),
    "unfinished": (
        "{num} of {planned} runs have no result; they count nowhere, and not as 0: {runs}.",
        "{planned}次运行中有{num}次没有结果; 不计入任何数值, 也不计为0: {runs}.",
    ),
    "collapsed": (
        "Collapsed runs, which count in every figure: {runs}. A run has collapsed where it scores no more than the "
        "majority baseline, or lies below the median of 3 seeds or more by over 5 robust deviations and over 5 points.",
        "崩塌的运行(计入所有数值): {runs}. 得分不高于多数类基线, 或在3个以上种子中比中位数"
        "低5个稳健标准差以上且低5分以上者, 视为崩塌.",
    ),
    "num_collapsed": ("{num} collapsed", "{num}次崩塌"),
    "without_collapsed": (
        "{place}: {mean} over all {n} seeds, {without} without the collapsed ({rest} left).",
        "{place}: 全部{n}个种子的平均值为{mean}; 去掉崩塌的运行后(剩{rest}个)为{without}.",
    ),
    "searched": (
        "Chosen on the validation rows by seeds that are not reported (their runs are in runs.csv): {values}.",
        "按未报告的种子在验证集上选出(这些运行见runs.csv): {values}.",
    ),
    "more": ("and {num} more", "另有{num}次"),
    "partial_scores": (
        "{num} runs were scored on part of the evaluation rows only: {runs}.",
        "{num}次运行仅在部分评估样本上评分: {runs}.",
    ),
    "majority_row": (
        "majority: always guessing the most frequent training label; it needs no run of its own.",
        "majority: 总是猜测训练集中最常见的标签; 无需单独运行.",
    ),
    "comparisons": (
        "Differences are paired seed by seed against {reference}; called better or worse only where the 95% interval "
        "(Student's t, not widened for the number of comparisons) leaves out 0.",
        "差值按随机种子与{reference}逐一配对; 仅当95%区间(t区间, 未按比较次数校正)不含0时才称更好或更差.",
    ),
    "no_losses": (
        "The losses of a suite of more than {most} runs are not drawn; each run's report.html shows its own.",
        "运行数超过{most}时不绘制Loss曲线; 各次运行的report.html中有各自的曲线.",
    ),
    "no_claims": (
        "Nothing is called better or worse: that takes two common seeds or more whose differences vary.",
        "不作优劣结论: 至少需要两个共同随机种子, 且其差值不全相同.",
    ),
    "plan_parameters": (
        "{trained:,} trained of {total:,} ({share:.4g} %)",
        "共{total:,}, 训练{trained:,} ({share:.4g} %)",
    ),
    "plan_rows": ("{num:,} an epoch, the longest {tokens:,} tokens", "每轮{num:,}条, 最长{tokens:,}个词元"),
    "plan_steps": ("{num:,}, {tokens:,} tokens", "{num:,}, 共{tokens:,}个词元"),
    "plan_memory": (
        "{size}, and what Python, torch and the allocator take",
        "{size}, 另加Python, torch和分配器所占",
    ),
    "plan_batch": ("{rows} x {tokens:,} tokens at once", "同时{rows} x {tokens:,}个词元"),
    "plan_time": (
        "{time} at {rate:,.0f} tokens/s, evaluations not counted",
        "{time} (每秒{rate:,.0f}个词元, 不含评估)",
    ),
    "plan_fits": (
        "fits; about {rows} rows of {tokens:,} tokens would",
        "放得下; 约可放{rows}条, 每条{tokens:,}个词元",
    ),
    "plan_fewer": (
        "does not fit; {rows} rows of {tokens:,} tokens would: training.per_device_train_batch_size",
        "放不下; 可放{rows}条, 每条{tokens:,}个词元: training.per_device_train_batch_size",
    ),
    "plan_none": ("not even one row fits; {ways} would help", "一条也放不下; 可改用{ways}"),
    "or": (" or ", "或"),
    "a_smaller": ("a smaller {name}", "更小的{name}"),
    "plan_no_rows": (
        "the rows are not at hand ({why}): all are taken to be {tokens} tokens",
        "手头没有数据行 ({why}): 全部按{tokens}个词元计",
    ),
    # what validate_config.py checks, by its title
    "reads as YAML": ("reads as YAML", "YAML可读"),
    "reads as JSON": ("reads as JSON", "JSON可读"),
    "keys and values": ("keys and values", "键和值"),
    "combinations": ("combinations", "组合"),
    "files": ("files", "文件"),
    "every setting has an effect": ("every setting has an effect", "每项设置都有作用"),
    "this machine": ("this machine", "本机"),
    "rows": ("rows", "数据行"),
    "tasks, methods, grid and seeds": ("tasks, methods, grid and seeds", "任务, 方法, 网格和随机种子"),
    "its runs": ("its runs", "各次运行"),
    "its {num} runs": ("its {num} runs", "{num}次运行"),
}

_NOT_SCORES = frozenset(
    {"loss", "perplexity", "runtime", "seconds", "kl", "entropy", "reward", "reward_std", "grad_norm", "margin",
     "mean_reward", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"}
)  # fmt: skip


def translate(key: str, language: Language) -> str:
    """Return the label of a key in a language."""
    return _LABELS[key][1 if language == "zh" else 0]


def phrase(key: str, language: Language, **parts: object) -> str:
    """Return a sentence in a language, with its fields filled in."""
    return _SENTENCES[key][1 if language == "zh" else 0].format(**parts)


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
