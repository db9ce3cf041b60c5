"""Sentences of tables and reports in English and Chinese, with fields in braces."""

from __future__ import annotations

from utils.results.labels import Language

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


def phrase(key: str, language: Language, **parts: object) -> str:
    """Return a sentence in a language, with its fields filled in."""
    return _SENTENCES[key][1 if language == "zh" else 0].format(**parts)
